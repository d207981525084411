#!/usr/bin/env python
"""`segzoo prepare shapes`, as Detectron2 calls such scripts."""

from segzoo.cli.prepare.shapes import make_shapes as make_shapes
from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("prepare", "shapes")
