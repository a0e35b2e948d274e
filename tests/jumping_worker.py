"""`python -P jumping_worker.py FILE`: a worker whose wall clock is ahead of the machine's by the seconds in the file.

libfaketime would do, but its version 0.9.10 lets no thread sleep by the monotonic clock.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    ahead, machine = Path(sys.argv.pop(1)), time.time
    time.time = lambda: machine() + float(ahead.read_text())  # before anything has taken it from there
    runpy.run_module("worker", run_name="__main__")
