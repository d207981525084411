#!/usr/bin/env python
"""`segzoo convert-data panoptic` under its earlier name."""

from segzoo.cli.convert_data.panoptic import main as main
from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("convert-data", "panoptic")
