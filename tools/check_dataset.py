#!/usr/bin/env python
"""The name of `segzoo check-data` in earlier versions."""

from segzoo.cli.check_data import main as main
from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("check-data")
