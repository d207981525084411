"""Models outside Python: torch.export, with a check against the model."""
