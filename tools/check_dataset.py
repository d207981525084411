#!/usr/bin/env python
"""`segzoo check-data` under its earlier name."""

from segzoo.cli.check_data import main as main
from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("check-data")
