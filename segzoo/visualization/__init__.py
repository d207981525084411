"""Drawing of labels, segments and scalar curves."""
