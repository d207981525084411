"""Several processes: launching, signals, lost processes, data parallelism."""
