"""The child process: takes requests from its socket one at a time, under limits that it sets before the first.

A request is JSON, `{"kind": "count" | "page" | "text", "media_type", "page"}`, and comes with the document's
descriptor. So is the reply: `{"kind": "pages", "pages"}`, `{"kind": "page", "angle"}`, `{"kind": "text", "width",
"height", "angle", "lines", "doubt"}` or `{"kind": "refusal", "code", "message", "retire"}`. Before it draws, the child
says `{"kind": "size", "width", "height"}` and waits for `{"kind": "draw"}` and the descriptor of the memory to draw on.
End of file ends the process.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys
from typing import Any, BinaryIO

import numpy as np

from worker.decoding import Document, Limits, Pixels, Refusal, confinement, sandbox
from worker.decoding.images import ImageDocument
from worker.decoding.pdfs import PdfDocument
from worker.decoding.texts import PageText

MESSAGE_BYTES = 1 << 16
#: A document whose page had more pixels is not kept open: it may hold on to them.
KEEP_OPEN_PIXELS = 16_000_000


def main(arguments: list[str]) -> None:
    """`arguments`: the socket's descriptor, the parent's process id, the limits as JSON."""
    channel = socket.socket(fileno=int(arguments[0]))
    limits = Limits(**json.loads(arguments[2]))
    confinement.die_with_parent(int(arguments[1]))
    confinement.limit_resources(limits.rasterise_memory_bytes)
    walls = [] if limits.sandbox == "off" else sandbox.enter()
    channel.send(json.dumps({"kind": "ready", "walls": walls}).encode())
    reader = PageReader(limits, channel)
    while True:
        message, descriptors = _receive(channel)
        reply = reader.answer(message, descriptors[0])
        channel.send(_encoded(reply))
        if reply.get("retire"):
            return


class PageReader:
    """Answers requests; keeps the last document open for its next page."""

    def __init__(self, limits: Limits, channel: socket.socket) -> None:
        self._limits = limits
        self._channel = channel
        self._file: BinaryIO | None = None
        self._document: Document | None = None
        self._identity: tuple[Any, ...] = ()

    def answer(self, request: dict[str, Any], descriptor: int) -> dict[str, Any]:
        """The last reply to a request about the document behind `descriptor`, which is the reader's to close."""
        confinement.allow_cpu_seconds(self._limits.page_timeout_s)
        try:
            document = self._open(descriptor, request["media_type"])
            if request["kind"] == "count":
                return {"kind": "pages", "pages": document.count()}
            if request["kind"] == "text" and isinstance(document, PdfDocument):
                return _text(document.text(request["page"]))
            return self._draw(document, request["page"])
        except Refusal as refusal:
            return _refusal(refusal.code, str(refusal))
        except MemoryError:
            # What is left of the heap is in pieces, so the next page gets a fresh process.
            message = "The page needs more memory than one page may take."
            return _refusal("image_too_large", message, retire=True)
        except Exception:
            # Decoders raise whatever a damaged field makes them stumble over.
            self._close()
            return _refusal("corrupt_document", "The document is damaged or cut short.")

    def _open(self, descriptor: int, media_type: str) -> Document:
        file = os.fdopen(descriptor, "rb")
        stat = os.fstat(descriptor)
        identity = (media_type, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self._document is not None and identity == self._identity:
            file.close()
            return self._document
        self._close()
        self._file, self._identity = file, identity
        # A decoder that died with the document may have left the offset anywhere.
        file.seek(0)
        pdf = media_type == "application/pdf"
        self._document = PdfDocument(file, self._limits) if pdf else ImageDocument(file, media_type, self._limits)
        return self._document

    def _draw(self, document: Document, page: int) -> dict[str, Any]:
        size = (0, 0)

        def allocate(width: int, height: int) -> Pixels:
            nonlocal size
            size = (width, height)
            self._channel.send(json.dumps({"kind": "size", "width": width, "height": height}).encode())
            _, [descriptor] = _receive(self._channel)
            try:
                # The whole page is written, so its memory is mapped at once instead of fault by fault.
                memory = mmap.mmap(descriptor, width * height * 3, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            except OSError as error:
                raise MemoryError from error
            finally:
                os.close(descriptor)
            return np.frombuffer(memory, np.uint8).reshape(height, width, 3)

        angle = document.draw(page, allocate)
        width, height = size
        if width * height > KEEP_OPEN_PIXELS:
            self._close()
        return {"kind": "page", "angle": angle}

    def _close(self) -> None:
        document, self._document = self._document, None
        if document is not None:
            document.close()
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 1)
    if not message:
        sys.exit()
    return json.loads(message), descriptors


def _encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode()


def _text(text: PageText) -> dict[str, Any]:
    """The reply with a page's text, or without it where it would be more than one message carries."""
    page = {"kind": "text", "width": text.width, "height": text.height, "angle": text.angle}
    reply = page | {"lines": [{"quad": quad, "text": line} for quad, line in text.lines], "doubt": text.doubt}
    return reply if len(_encoded(reply)) <= MESSAGE_BYTES else page | {"lines": [], "doubt": "too_long"}


def _refusal(code: str, message: str, *, retire: bool = False) -> dict[str, Any]:
    return {"kind": "refusal", "code": code, "message": message, "retire": retire}
