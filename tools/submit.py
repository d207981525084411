#!/usr/bin/env python
"""Submits trainings to SLURM: `segzoo submit`, with the name of submitit's users' habit."""

from segzoo.cli.script import run_script
from segzoo.cli.submit import main as main

if __name__ == "__main__":
    run_script("submit")
