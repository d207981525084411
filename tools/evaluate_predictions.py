#!/usr/bin/env python
"""`segzoo evaluate --predictions` under its earlier name."""

from segzoo.cli.evaluate import main as main
from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("evaluate")
