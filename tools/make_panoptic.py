#!/usr/bin/env python
"""The name of `segzoo convert-data panoptic` in earlier versions."""

from segzoo.cli.convert_data.panoptic import main as main
from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("convert-data", "panoptic")
