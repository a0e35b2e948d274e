"""`python -P turning_names.py ARGUMENTS...`: the command `ocrpool` where the name server is an attacker's.

Each name under `.test` is at 127.0.0.1 when it is asked for first, at 127.0.0.2 the next time, and so on in turn.
"""

from __future__ import annotations

import itertools
import socket
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from producer.cli import main

lookup = socket.getaddrinfo
turns: defaultdict[str, Iterator[str]] = defaultdict(lambda: itertools.cycle(("127.0.0.1", "127.0.0.2")))


def look_up_in_turn(host: str | bytes | None, *arguments: Any, **options: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    if name and name.endswith(".test"):
        host = next(turns[name])
    return lookup(host, *arguments, **options)


if __name__ == "__main__":
    socket.getaddrinfo = look_up_in_turn
    main()
