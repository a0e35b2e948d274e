"""`python -m worker`: one worker process, with the flags that suit it."""

from __future__ import annotations

import sys

from producer.settings import Settings
from worker.app import app


def main() -> None:
    settings = Settings()
    name = f"{settings.node or 'worker'}@%h"
    flags = ["--without-gossip", "--without-mingle", "--loglevel=WARNING", f"--hostname={name}"]
    app.worker_main(["worker", *flags, *sys.argv[1:]])


if __name__ == "__main__":
    main()
