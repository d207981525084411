#!/usr/bin/env python
"""`segzoo export` under its earlier name."""

from segzoo.cli.export import main as main
from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("export")
