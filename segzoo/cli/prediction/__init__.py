"""Parts of `segzoo predict`: finding inputs, drawing predictions, writing or showing the results."""
