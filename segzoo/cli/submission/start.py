"""Script that starts submitit's runner on a node, with the code of the snapshot that this file is part of.

`python -m submitit...` would import the code of the current folder first, which may have been edited since.
"""

import os
import sys
from pathlib import Path

SNAPSHOT = Path(__file__).resolve().parents[3]


def main() -> None:
    # Replaces this file's folder; PYTHONPATH is for child processes.
    sys.path[0] = str(SNAPSHOT)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SNAPSHOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    from submitit.core.submission import submitit_main

    # submitit's command line is -m submitit.core._submit FOLDER; only the folder matters.
    sys.argv = [sys.argv[0], sys.argv[-1]]
    submitit_main()


if __name__ == "__main__":
    main()
