"""GluonCV on MXNet."""
