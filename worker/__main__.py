"""`python -m worker`: one worker process, with the flags that suit it."""

from __future__ import annotations

import os
import sys
import warnings

from celery.exceptions import SecurityWarning

from producer.settings import Settings
from worker.app import app


def main() -> None:
    name = Settings().node or f"worker-{os.getpid()}"
    flags = ["--without-gossip", "--without-mingle", "--loglevel=WARNING", f"--hostname={name}@%h"]
    # Celery warns of root because of pickle, which no queue here accepts.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app.worker_main(["--quiet", "worker", *flags, *sys.argv[1:]])


if __name__ == "__main__":
    main()
