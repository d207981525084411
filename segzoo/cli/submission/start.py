"""What a node starts: submitit's runner, on the code of the snapshot that this file is part of.

`python -m submitit...` would find the code of the current folder first, which goes on being edited.
"""

import os
import sys
from pathlib import Path

SNAPSHOT = Path(__file__).resolve().parents[3]


def main() -> None:
    # In place of this file's folder, which is no place to import from; also for processes started from here.
    sys.path[0] = str(SNAPSHOT)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SNAPSHOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    from submitit.core.submission import submitit_main

    # Of submitit's own command line (-m submitit.core._submit FOLDER) the folder counts.
    sys.argv = [sys.argv[0], sys.argv[-1]]
    submitit_main()


if __name__ == "__main__":
    main()
