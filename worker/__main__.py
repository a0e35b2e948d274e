"""`python -m worker`: one worker process, with the flags that suit it."""

from __future__ import annotations

import os
import sys
import warnings

from celery.bin.base import CLIContext
from celery.bin.worker import worker
from celery.exceptions import SecurityWarning

from producer.settings import Settings
from worker.app import app


def main() -> None:
    name = Settings().node or f"worker-{os.getpid()}"
    flags = ["--without-gossip", "--without-mingle", "--loglevel=WARNING", f"--hostname={name}@%h"]
    # Celery warns of root because of pickle, which no queue here accepts.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # Celery's command alone: those beside it, and Flower's, take as long to import as the rest of a worker.
    context = CLIContext(app, no_color=None, workdir=None, quiet=True)
    worker.main([*flags, *sys.argv[1:]], prog_name="ocrpool worker", obj=context)


if __name__ == "__main__":
    main()
