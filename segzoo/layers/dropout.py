"""Kinds of dropout, by their name in configurations."""

from torch import nn

#: "channel" sets whole feature maps to 0, "element" single values.
DROPOUTS: dict[str, type[nn.Module]] = {"channel": nn.Dropout2d, "element": nn.Dropout}
