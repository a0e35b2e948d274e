"""What reads pages in a process of its own: the pool's rungs, its clients, its peers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any


class Reader(ABC):
    """Reads pages, one a call. Making one loads and warms it, or raises `Unavailable` with the reason."""

    #: Names the models and the runtime.
    model: str = ""
    #: How many threads may be in a call at a time.
    width: int = 1

    @abstractmethod
    def read(self, path: str) -> str:
        """The text of one image file."""

    def methods(self) -> Mapping[str, Callable[[str], Any]]:
        """What may be asked by name: each takes a word and returns what JSON can hold."""
        return {"read": self.read}

    def close(self) -> None:  # noqa: B027 - most hold nothing that does not end with the process
        """Let go of everything."""
