#!/usr/bin/env python
"""The name of `segzoo visualize-data` in earlier versions."""

from segzoo.cli.script import run_script
from segzoo.cli.visualize_data import main as main

if __name__ == "__main__":
    run_script("visualize-data")
