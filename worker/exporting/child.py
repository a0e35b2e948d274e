"""The child process: makes one file of one document, under limits that it sets before it looks at the document.

Its request is JSON on standard input; the document and the file to write are descriptors. It answers on its socket,
once: `{"kind": "done"}` or `{"kind": "refusal", "code", "message"}`.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from typing import Any, BinaryIO

from worker.decoding import Limits, Refusal, confinement, sandbox
from worker.exporting import PageLines
from worker.exporting.overlay import draw_overlay
from worker.exporting.searchable import write_searchable


def main(arguments: list[str]) -> None:
    """`arguments`: the parent's process id; the descriptors of the socket, the document and the file to write."""
    parent, channel, document, output = map(int, arguments)
    confinement.die_with_parent(parent)
    with socket.socket(fileno=channel) as answers:
        answers.send(json.dumps(_answer(json.load(sys.stdin), document, output)).encode())


def _answer(request: dict[str, Any], document: int, output: int) -> dict[str, str]:
    limits = Limits(**request["limits"])
    confinement.limit_resources(limits.rasterise_memory_bytes, request["max_bytes"])
    walls = [] if limits.sandbox == "off" else sandbox.enter()
    confinement.allow_cpu_seconds(request["timeout_s"])
    try:
        if limits.sandbox == "on" and walls != list(sandbox.WALLS):
            raise Refusal("unavailable", "OCRPOOL_SANDBOX is on, and this kernel has no whole sandbox.")
        with os.fdopen(document, "rb") as source, os.fdopen(output, "wb") as file:
            _export(request, limits, source, file)
    except Refusal as refusal:
        return _refusal(refusal.code, str(refusal))
    except Exception as error:
        return _refusal(*_blame(error, request["max_bytes"]))
    return {"kind": "done"}


def _blame(error: Exception, max_bytes: int) -> tuple[str, str]:
    """The code and the sentence for what went wrong."""
    if isinstance(error, MemoryError):
        return "image_too_large", "The document needs more memory than it may take."
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "too_large", f"The file would have more than {max_bytes:,} bytes, the most that is written."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "unavailable", "There is no room for the file."
    # Decoders raise whatever a damaged field makes them stumble over.
    return "corrupt_document", "The document is damaged or cut short."


def _export(request: dict[str, Any], limits: Limits, source: BinaryIO, file: BinaryIO) -> None:
    pages = [PageLines.of(page) for page in request["pages"]]
    # Whoever had the descriptor before may have left its offset anywhere.
    source.seek(0)
    if request["format"] == "overlay":
        draw_overlay(source, request["media_type"], pages[0], limits, file)
    else:
        write_searchable(source, request["media_type"], pages, file, widths=request["widths"], limits=limits)


def _refusal(code: str, message: str) -> dict[str, str]:
    return {"kind": "refusal", "code": code, "message": message}
