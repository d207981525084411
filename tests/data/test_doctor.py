"""tools/doctor.py looks for what the packaging requires."""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def assigned(file, name):
    """The literal that a module assigns to a name; importing setup.py would run it."""
    for node in ast.parse((REPOSITORY / file).read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{file} has no {name}")


def test_the_doctor_looks_for_every_required_package():
    required = {re.match(r"[\w-]+", need)[0] for need in assigned("setup.py", "REQUIRED")}
    # Detectron2 is no requirement of the package: it is installed from its source.
    assert set(assigned("tools/doctor.py", "REQUIRED").values()) == required | {"detectron2"}
