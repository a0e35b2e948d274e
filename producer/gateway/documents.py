"""A document on its way in: multipart or JSON, bounded while it streams, never parsed here."""

from __future__ import annotations

import base64
import binascii
import tempfile
import time
from asyncio import timeout
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import IO, Any, Protocol

from pydantic import Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from producer.errors import InvalidRequest, TooLarge, Unavailable, UnsupportedMediaType, UploadTimeout
from producer.escaping import NAME_CHARS, shown_name
from producer.gateway.problems import invalid, shown_field
from producer.job import ADDRESS, Contract, ReadOptions
from producer.settings import Settings

#: What a body may carry beside the document: boundaries, part headers and option fields.
OVERHEAD_BYTES = 1 << 16
FIELD_BYTES = 8192
#: The head of one of many files in a form.
PART_BYTES = 512
MAX_FIELDS = 32
#: Bodies and documents up to this size stay in memory, larger ones wait in a temporary file.
IN_MEMORY_BYTES = 1 << 20
#: Where the way in is too narrow, and another one is not.
JSON_HINT = ", the most that JSON may carry (OCRPOOL_MAX_JSON_DOCUMENT_BYTES); send it as multipart/form-data"


class JobRequest(Contract):
    """A document in JSON. Multipart spares the third that base64 adds, and the memory."""

    document: str | None = Field(None, description="The document's bytes in base64.", examples=["JVBERi0xLjcK..."])
    url: str | None = Field(
        None,
        pattern=ADDRESS.pattern,
        description="Where the document is fetched from, instead of `document`.",
        examples=["https://files.example.com/invoice.pdf"],
    )
    name: str = Field("", max_length=NAME_CHARS, description="Shown with the job, never used as a path.")
    options: ReadOptions = ReadOptions()


@dataclass(frozen=True)
class Document:
    """What the producer is given: the bytes, an open file with them or their address; a name, and how to read it."""

    source: bytes | IO[bytes] | str
    #: None for the one that the address suggests.
    name: str | None
    options: ReadOptions
    batch: str | None = None
    #: What whoever asked calls the fields that a refusal may name, where it is not their name here.
    names: Mapping[str, str] = field(default_factory=dict)


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

    def opened(self) -> AbstractContextManager[Document]:
        return nullcontext(Document(self.file, self.name, self.options))


@dataclass(frozen=True)
class JsonUpload:
    """A JSON body, not yet parsed."""

    body: IO[bytes]
    max_bytes: int
    too_large: TooLarge

    def opened(self) -> AbstractContextManager[Document]:
        self.body.seek(0)
        try:
            asked = JobRequest.model_validate_json(self.body.read())
        except ValidationError as error:
            raise invalid(error.errors(include_url=False)) from error
        if asked.url is not None and asked.document is not None:
            raise InvalidRequest("url: the document is there already; send one of the two.")
        if asked.url is not None:
            return nullcontext(Document(asked.url, asked.name or None, asked.options))
        if asked.document is None:
            raise InvalidRequest("document: neither it nor a url is there.")
        source = decoded("document", asked.document, self.max_bytes, self.too_large)
        return nullcontext(Document(source, asked.name, asked.options))


@dataclass(frozen=True)
class FreshUpload:
    """One that is to be read anew, whatever its options say."""

    upload: Upload

    @contextmanager
    def opened(self) -> Iterator[Document]:
        with self.upload.opened() as document:
            yield replace(document, options=_fresh(document.options))


def _fresh(options: ReadOptions) -> ReadOptions:
    return options.model_copy(update={"cache": False})


def _asks_for_fresh(request: Request) -> bool:
    directives = request.headers.get("cache-control", "").lower().split(",")
    return any(directive.partition("=")[0].strip() in ("no-cache", "no-store") for directive in directives)


def decoded(name: str, text: str, max_bytes: int, too_large: TooLarge) -> bytes:
    """The document that a field of a JSON body holds in base64.

    Raises:
        InvalidRequest: it is not base64.
        TooLarge: it has more than `max_bytes`: the error that is given.
    """
    try:
        # Many tools break it into lines.
        source = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{name}: not valid base64.") from error
    if len(source) > max_bytes:
        raise too_large
    return source


async def left(request: Request) -> None:
    """Return once the client has gone, whose request was received whole."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


#: Make an upload of a form and the largest document's size, or of a JSON body, that size and the error beyond it.
OfForm = Callable[[FormData, int], Upload]
OfBody = Callable[[IO[bytes], int, TooLarge], Upload]


@asynccontextmanager
async def received(
    request: Request, settings: Settings, *, form: OfForm | None = None, body: OfBody = JsonUpload
) -> AsyncIterator[Upload]:
    """The request's body, once all of it has come; valid inside the context. `form` and `body` make it an upload;
    `Cache-Control: no-cache` is one of its options.

    Raises:
        InvalidRequest: the form is not of the documented shape; the sentence names the field.
        TooLarge: the document is larger than the settings allow; the rest of the body is left unread.
        UploadTimeout: it comes more slowly than they allow.
        UnsupportedMediaType: the body is neither multipart nor JSON.
        Unavailable: there is no room for it.
    """
    async with AsyncExitStack() as held:
        with _room():
            upload = await held.enter_async_context(_receive(request, settings, form or _from_form, body))
        yield FreshUpload(upload) if _asks_for_fresh(request) else upload


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The gateway has no room for the document: {error.strerror}.") from error


@asynccontextmanager
async def _receive(request: Request, settings: Settings, of_form: OfForm, of_body: OfBody) -> AsyncIterator[Upload]:
    max_bytes = settings.max_document_bytes
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with _form(_bounded(request, max_bytes + OVERHEAD_BYTES, _too_large(max_bytes), settings)) as form:
            yield of_form(form, max_bytes)
    elif kind == "application/json":
        hint = ""
        if settings.max_json_document_bytes < max_bytes:
            max_bytes, hint = settings.max_json_document_bytes, JSON_HINT
        too_large = _too_large(max_bytes, hint)
        bounded = _bounded(request, -(-max_bytes // 3) * 4 + OVERHEAD_BYTES, too_large, settings)
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as body:
            async for chunk in bounded.stream():
                body.write(chunk)
            yield of_body(body, max_bytes, too_large)
    else:
        raise UnsupportedMediaType("Send the document as multipart/form-data or application/json.")


def _bounded(request: Request, limit: int, too_large: TooLarge, settings: Settings) -> Request:
    """The same request, whose body ends in `too_large` as soon as more than `limit` bytes of it have come, and in
    `UploadTimeout` when they come too slowly."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    return Request(request.scope, _counted(_timed(request.receive, settings), limit, too_large))


def _counted(receive: Receive, limit: int, too_large: TooLarge) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise too_large
        return message

    return counted


def _timed(receive: Receive, settings: Settings) -> Receive:
    end = time.monotonic() + settings.upload_timeout_s

    async def timed() -> Message:
        left_s = end - time.monotonic()
        try:
            async with timeout(min(left_s, settings.upload_idle_s)):
                return await receive()
        except TimeoutError:
            if left_s < settings.upload_idle_s:
                raise UploadTimeout(f"The document did not come within {settings.upload_timeout_s:g} s.") from None
            raise UploadTimeout(f"Nothing more of the document came for {settings.upload_idle_s:g} s.") from None

    return timed


def _too_large(max_bytes: int, hint: str = "") -> TooLarge:
    return TooLarge(f"The document has more than {max_bytes} bytes{hint}.")


@asynccontextmanager
async def _form(bounded: Request, max_files: int = 1) -> AsyncIterator[FormData]:
    try:
        form = await bounded.form(max_files=max_files, max_fields=MAX_FIELDS, max_part_size=OVERHEAD_BYTES)
    except HTTPException as error:
        raise InvalidRequest(f"The form cannot be read: {str(error.detail).rstrip('.')}.") from error
    try:
        for name, value in form.multi_items():
            if isinstance(value, str) and len(value.encode()) > FIELD_BYTES:
                raise InvalidRequest(f"{shown_field(name)}: at most {FIELD_BYTES:,} bytes.")
        yield form
    finally:
        await form.close()


def once_each(fields: Iterable[tuple[str, UploadFile | str]]) -> dict[str, UploadFile | str]:
    """The fields of a form by name. Raises `InvalidRequest` for a name that comes twice."""
    found: dict[str, UploadFile | str] = {}
    for name, value in fields:
        if name in found:
            raise InvalidRequest(f"{shown_field(name)}: the form names this field twice.")
        found[name] = value
    return found


def _from_form(form: FormData, max_bytes: int) -> FormUpload:
    fields = once_each(form.multi_items())
    file = fields.pop("file", None)
    if not isinstance(file, UploadFile):
        raise InvalidRequest("file: the form has no file in the field of this name.")
    if file.size is not None and file.size > max_bytes:
        raise _too_large(max_bytes)
    # A name that was chosen may be too long; one that a client took from its disk is cut.
    name = fields.pop("name", None) or shown_name(file.filename or "")[:NAME_CHARS]
    # A browser sends the fields that a person left alone as empty texts.
    chosen = {field: value for field, value in fields.items() if value != ""}
    return FormUpload(file=file.file, name=str(name), options=_options(chosen))


@dataclass(frozen=True)
class ManyFiles:
    """The files of a form with their names, and how to read each of them."""

    files: list[IO[bytes]]
    names: list[str]
    options: ReadOptions


@asynccontextmanager
async def received_many(request: Request, settings: Settings) -> AsyncIterator[ManyFiles]:
    """The files of a multipart form, once all of them have come; valid inside the context. `Cache-Control: no-cache` is
    for all of them.

    Raises:
        as `received`; what is wrong with one of the files alone is not looked at here.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise UnsupportedMediaType("Send the documents as multipart/form-data.")
    most, max_bytes = settings.max_batch_documents, settings.max_batch_bytes
    too_large = TooLarge(f"The documents have more than {max_bytes} bytes together (OCRPOOL_MAX_BATCH_BYTES).")
    bounded = _bounded(request, max_bytes + OVERHEAD_BYTES + most * PART_BYTES, too_large, settings)
    async with AsyncExitStack() as held:
        with _room():
            form = await held.enter_async_context(_form(bounded, most))
        many = _many_from_form(form, too_large, max_bytes)
        yield replace(many, options=_fresh(many.options)) if _asks_for_fresh(request) else many


def _many_from_form(form: FormData, too_large: TooLarge, max_bytes: int) -> ManyFiles:
    files = [value for field, value in form.multi_items() if field == "file" and isinstance(value, UploadFile)]
    if not files:
        raise InvalidRequest("file: the form has no file in a field of this name.")
    if sum(file.size or 0 for file in files) > max_bytes:
        raise too_large
    fields = once_each((field, value) for field, value in form.multi_items() if field != "file")
    names = [shown_name(file.filename or "")[:NAME_CHARS] for file in files]
    chosen = {field: value for field, value in fields.items() if value != ""}
    return ManyFiles([file.file for file in files], names, _options(chosen))


def _options(fields: Mapping[str, Any]) -> ReadOptions:
    try:
        return ReadOptions.model_validate(fields)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)) from error
