"""A document on its way in: multipart or JSON, bounded while it streams, never parsed here."""

from __future__ import annotations

import base64
import binascii
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from pydantic import Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from producer.errors import InvalidRequest, TooLarge, UnsupportedMediaType
from producer.gateway.problems import invalid
from producer.job import Contract, ReadOptions

#: What a body may carry beside the document: boundaries, part headers and option fields.
OVERHEAD_BYTES = 1 << 16
FIELD_BYTES = 4096
MAX_FIELDS = 32
NAME_CHARS = 255
#: Bodies and documents up to this size stay in memory, larger ones wait in a temporary file.
IN_MEMORY_BYTES = 1 << 20


class JobRequest(Contract):
    """A document in JSON. Multipart spares the third that base64 adds, and the memory."""

    document: str = Field(description="The document's bytes in base64.", examples=["JVBERi0xLjcK..."])
    name: str = Field("", max_length=NAME_CHARS, description="Shown with the job, never used as a path.")
    options: ReadOptions = ReadOptions()


@dataclass(frozen=True)
class Document:
    """What the producer is given: the bytes or a file with them, a name, and how to read it."""

    source: bytes | Path
    name: str
    options: ReadOptions


class Upload(Protocol):
    """A body that was received whole."""

    def opened(self) -> AbstractContextManager[Document]:
        """The document, for as long as the context lasts. Blocks: call it in a thread.

        Raises:
            InvalidRequest, TooLarge: the JSON does not hold what it should.
        """
        ...


@dataclass(frozen=True)
class FormUpload:
    """The file and the fields of a multipart form."""

    file: IO[bytes]
    name: str
    options: ReadOptions

    @contextmanager
    def opened(self) -> Iterator[Document]:
        head = self.file.read(IN_MEMORY_BYTES + 1)
        if len(head) <= IN_MEMORY_BYTES:
            yield Document(head, self.name, self.options)
            return
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(head)
            shutil.copyfileobj(self.file, copy, IN_MEMORY_BYTES)
            copy.flush()
            yield Document(Path(copy.name), self.name, self.options)


@dataclass(frozen=True)
class JsonUpload:
    """A JSON body, not yet parsed."""

    body: IO[bytes]
    max_bytes: int

    def opened(self) -> AbstractContextManager[Document]:
        try:
            asked = JobRequest.model_validate_json(self.body.read())
        except ValidationError as error:
            raise invalid(error.errors(include_url=False)) from error
        try:
            source = base64.b64decode(asked.document, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequest("document: not valid base64.") from error
        if len(source) > self.max_bytes:
            raise _too_large(self.max_bytes)
        return nullcontext(Document(source, shown_name(asked.name), asked.options))


@asynccontextmanager
async def received(request: Request, max_bytes: int, *, json_too: bool = True) -> AsyncIterator[Upload]:
    """The request's body, once all of it has come; valid inside the context.

    Raises:
        InvalidRequest: the form is not of the documented shape; the sentence names the field.
        TooLarge: the document has more than `max_bytes`; the rest of the body is left unread.
        UnsupportedMediaType: the body is neither multipart nor JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with _form(_bounded(request, max_bytes + OVERHEAD_BYTES, max_bytes)) as form:
            yield _from_form(form, max_bytes)
    elif json_too and kind == "application/json":
        bounded = _bounded(request, -(-max_bytes // 3) * 4 + OVERHEAD_BYTES, max_bytes)
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as body:
            async for chunk in bounded.stream():
                body.write(chunk)
            body.seek(0)
            yield JsonUpload(body, max_bytes)
    else:
        forms = "multipart/form-data or application/json" if json_too else "multipart/form-data"
        raise UnsupportedMediaType(f"Send the document as {forms}.")


def _bounded(request: Request, limit: int, max_bytes: int) -> Request:
    """The same request, whose body ends in `TooLarge` as soon as more than `limit` bytes of it have come."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(max_bytes)
    return Request(request.scope, _counted(request.receive, limit, max_bytes))


def _counted(receive: Receive, limit: int, max_bytes: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(max_bytes)
        return message

    return counted


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The document has more than {max_bytes} bytes.")


@asynccontextmanager
async def _form(bounded: Request) -> AsyncIterator[FormData]:
    try:
        form = await bounded.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=FIELD_BYTES)
    except HTTPException as error:
        raise InvalidRequest(f"The form cannot be read: {str(error.detail).rstrip('.')}.") from error
    try:
        yield form
    finally:
        await form.close()


def _from_form(form: FormData, max_bytes: int) -> FormUpload:
    fields = dict(form.multi_items())
    if len(fields) != len(form.multi_items()):
        raise InvalidRequest("The form names a field twice.")
    file = fields.pop("file", None)
    if not isinstance(file, UploadFile):
        raise InvalidRequest("file: the form has no file in the field of this name.")
    if file.size is not None and file.size > max_bytes:
        raise _too_large(max_bytes)
    name = fields.pop("name", None) or file.filename or ""
    # A browser sends the fields that a person left alone as empty texts.
    chosen = {field: value for field, value in fields.items() if value != ""}
    return FormUpload(file=file.file, name=shown_name(str(name)), options=_options(chosen))


def _options(fields: Mapping[str, Any]) -> ReadOptions:
    try:
        return ReadOptions.model_validate(fields)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)) from error


def shown_name(name: str) -> str:
    """A file name that is safe to show: no folders, no control characters, at most 255 characters."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(char for char in last if char.isprintable())[:NAME_CHARS]
