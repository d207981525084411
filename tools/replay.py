#!/usr/bin/env python
"""`segzoo replay` under its earlier name."""

from segzoo.cli.replay import main as main
from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("replay")
