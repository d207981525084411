"""The parts of tools/check_dataset.py."""
