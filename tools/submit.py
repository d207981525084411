#!/usr/bin/env python
"""`segzoo submit` under its earlier name."""

from segzoo.cli.script import run_script
from segzoo.cli.submit import main as main

if __name__ == "__main__":
    run_script("submit")
