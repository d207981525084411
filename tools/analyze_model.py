#!/usr/bin/env python
"""`segzoo analyze` under its earlier name."""

from segzoo.cli.analyze import main as main
from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("analyze")
