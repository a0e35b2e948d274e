"""The ledger's Lua scripts, each of which runs whole or not at all; see `producer.ledger` for the keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import redis

from producer.errors import Unavailable

#: The server's errors that pass, by their first word, and what each says.
_TEMPORARY = {
    "MISCONF": "cannot write to its disk",
    "BUSY": "is busy with a script",
    "LOADING": "is loading its data",
    "MASTERDOWN": "is a replica that has lost its master",
    "NOREPLICAS": "has too few replicas",
    "TRYAGAIN": "is moving its keys",
}


@contextmanager
def reachable() -> Iterator[None]:
    """Turn the client's connection errors into `Unavailable`."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError as error:
        raise Unavailable("The pool's Redis is full.") from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise Unavailable("The pool's Redis cannot be reached.") from error
    except redis.exceptions.ReadOnlyError as error:
        raise Unavailable("The pool's Redis is a replica that takes no writes.") from error
    except redis.exceptions.ResponseError as error:
        kind = str(error).partition(" ")[0]
        if kind not in _TEMPORARY:
            raise
        raise Unavailable(f"The pool's Redis {_TEMPORARY[kind]}.") from error


class Scripts:
    """The scripts of one namespace on one server. Safe to share between threads."""

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self.redis = client
        self.namespace = namespace
        folder = files("producer") / "lua"
        prelude = (folder / "prelude.lua").read_text()
        self._scripts: dict[str, Callable[..., Any]] = {
            entry.name.removesuffix(".lua"): client.register_script(_source(prelude, entry.read_text()))
            for entry in folder.iterdir()
            if entry.name.endswith(".lua") and entry.name != "prelude.lua"
        }

    def run(self, script: str, *args: object) -> Any:
        """What the script returns. Raises `Unavailable`, as the others do."""
        with reachable():
            return self._scripts[script](keys=[self.namespace], args=args)

    def run_each(self, script: str, runs: Iterable[Sequence[object]]) -> list[Any]:
        """What the script returns for each of these arguments, in one go."""
        with reachable(), self.redis.pipeline(transaction=False) as pipe:
            for args in runs:
                self._scripts[script](keys=[self.namespace], args=args, client=pipe)
            return list(pipe.execute())

    def run_durably(self, script: str, runs: Iterable[str], replicas: int, timeout_s: float) -> tuple[list[Any], str]:
        """`run_each`, and wait until its writes are on the server's disk and on those of so many replicas.

        Returns what the runs returned, and in one sentence what kept their writes from a disk.
        """
        with reachable(), self.redis.pipeline(transaction=False) as pipe:  # on one connection, whose writes count
            for argument in runs:
                self._scripts[script](keys=[self.namespace], args=[argument], client=pipe)
            pipe.execute_command("WAITAOF", 1, replicas, round(timeout_s * 1000))
            *verdicts, written = pipe.execute(raise_on_error=False)
            for verdict in verdicts:
                if isinstance(verdict, Exception):
                    raise verdict
        if isinstance(written, redis.exceptions.ResponseError):
            return verdicts, f"OCRPOOL_DURABLE needs Redis 7.2 with `appendonly yes`, which says: {written}"
        here, there = written
        if not here:
            return verdicts, "The pool's Redis did not write the job to its disk in time; it is not accepted."
        if there < replicas:
            return verdicts, "Too few replicas of the pool's Redis wrote the job to their disks; it is not accepted."
        return verdicts, ""


def _source(prelude: str, script: str) -> str:
    """The whole script. Its flags, if any, are for the server, which looks for them in the first line alone."""
    flags, _, rest = script.partition("\n")
    return f"{flags}\n{prelude}{rest}" if flags.startswith("#!") else prelude + script
