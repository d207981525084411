"""The loss of mask classification: matching, targets and loss terms."""
