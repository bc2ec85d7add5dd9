"""The benchmarks import each other by their plain names; last on the path, so that they hide nothing."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
