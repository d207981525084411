#!/usr/bin/env python
"""`segzoo train` with the name and the flags of Detectron2's script."""

from segzoo.cli.script import run_script
from segzoo.cli.train import main as main

if __name__ == "__main__":
    run_script("train")
