#!/usr/bin/env python
"""`segzoo prepare entityseg`, as Detectron2 calls such scripts."""

from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("prepare", "entityseg")
