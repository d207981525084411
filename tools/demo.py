#!/usr/bin/env python
"""`segzoo predict` with the name and the flags of Detectron2's demo."""

from segzoo.cli.predict import main as main
from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("predict")
