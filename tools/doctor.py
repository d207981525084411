#!/usr/bin/env python
"""`segzoo doctor`, which also runs where nothing is installed."""

import sys
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036  this file also runs where segzoo does not
    sys.exit("error: segzoo needs Python 3.10 or later, and this is {}.{}".format(*sys.version_info))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from segzoo.cli.doctor import main as main
from segzoo.cli.script import run_script

if __name__ == "__main__":
    run_script("doctor")
