#!/usr/bin/env python
"""`segzoo visualize-data` under its earlier name."""

from segzoo.cli.script import run_script
from segzoo.cli.visualize_data import main as main

if __name__ == "__main__":
    run_script("visualize-data")
