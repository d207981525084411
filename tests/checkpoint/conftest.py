"""Lets these tests use the helpers of tests/modeling: small configurations, and transformers' names."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "modeling"))
