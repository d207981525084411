"""Colors and markers that are distinguishable without color vision: near the palette of Okabe and Ito."""

LIGHT = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#C2578F",
    "#B87F00",
    "#2B8FCB",
    "#7F3C8D",
    "#666666",
    "#8A5A10",
    "#111111",
)
# On a dark ground.
DARK = (
    "#4DB1EA",
    "#FF8C42",
    "#2CCB9C",
    "#EE8FC2",
    "#E6B23C",
    "#9AD0F5",
    "#C795DE",
    "#B4B4B4",
    "#D6A76B",
    "#F0F0F0",
)
# Outlines around (0, 0), about 12 wide, in the order of the series.
SHAPES = (
    "M5.5 0A5.5 5.5 0 1 1-5.5 0A5.5 5.5 0 1 1 5.5 0Z",
    "M-5-5H5V5H-5Z",
    "M0-6.5L6 5H-6Z",
    "M0-7L6 0L0 7L-6 0Z",
    "M0 6.5L6-5H-6Z",
    "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "M-6-3L-3-6L0-3L3-6L6-3L3 0L6 3L3 6L0 3L-3 6L-6 3L-3 0Z",
    "M0-7L1.8-2.3L6.7-2.2L2.8.9L4.1 5.7L0 2.9L-4.1 5.7L-2.8.9L-6.7-2.2L-1.8-2.3Z",
    "M0-6.3L6-1.9L3.7 5.1H-3.7L-6-1.9Z",
    "M-3-5.3H3L6 0L3 5.3H-3L-6 0Z",
    "M-6.5 0L5-6V6Z",
    "M6.5 0L-5-6V6Z",
    "M-2-7H2V7H-2Z",
)


def style_of(series: int) -> tuple[int, int]:
    """Return the indices of a series' color and shape."""
    return series % len(LIGHT), series % len(SHAPES)
