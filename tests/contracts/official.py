"""PaddleOCR's own client, unchanged, in an environment of its own: `make .venv-paddleocr/installed` makes it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ENVIRONMENT = Path(__file__).parents[2] / ".venv-paddleocr"
COMMAND_LINE = ENVIRONMENT / "bin" / "paddleocr"
DRIVER = Path(__file__).with_name("paddleocr_driver.py")


class ClientError(Exception):
    """What the client raised."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Official:
    """A process with the client in it. Use as a context."""

    def __init__(self) -> None:
        command = [str(ENVIRONMENT / "bin" / "python"), "-I", str(DRIVER)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def call(self, client: str, base_url: str, method: str, token: str = "a token", **arguments: Any) -> Any:
        """What a method of the `sync` or `async` client returns, as plain values.

        Raises:
            ClientError: the client raised an error of its own.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"client": client, "base_url": base_url, "method": method, "token": token, "arguments": arguments}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        if "raised" in answer:
            raise ClientError(answer["raised"], answer["message"])
        return answer["returned"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=30)  # its end of input
