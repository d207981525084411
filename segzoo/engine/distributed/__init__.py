"""Several processes: launching, signals, failures of peers, data parallelism."""
