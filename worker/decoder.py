"""The worker's handle on one decoder: a child process, its socket, and what may be believed of its answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, FiniteFloat, TypeAdapter, ValidationError, model_validator

import worker
from producer.job import Contract, TextDoubt
from producer.settings import DECODER_LIMITS, Settings

#: Longest time that a child may take to import its libraries.
START_TIMEOUT_S = 20.0
#: A child is replaced after this many requests, so that what its libraries leak does not add up.
REQUESTS_A_CHILD = 500
REPLY_BYTES = 1 << 16

#: Where a child imports from: where its worker does, but never a working directory.
IMPORT_PATH = json.dumps([*filter(os.path.isabs, sys.path), str(Path(worker.__file__).parents[1])])
#: Isolated mode: neither the environment nor the working directory choose what the child imports.
COMMAND = (
    sys.executable,
    "-I",
    "-B",
    "-c",
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from worker.decoding.child import main; main(sys.argv[2:])",
    IMPORT_PATH,
)
#: One thread a child; and none of the worker's secrets.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
INHERITED = ("PATH", "LD_LIBRARY_PATH")


Shape = TypeVar("Shape")


def _environment() -> dict[str, str]:
    return ENVIRONMENT | {name: os.environ[name] for name in INHERITED if name in os.environ}


def imports() -> str:
    """What keeps a child from importing what it needs, in one line; empty where nothing does."""
    command = [*COMMAND[:4], COMMAND[4].partition("; main(")[0], *COMMAND[5:]]
    ended = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    return ended.stderr.strip().rpartition("\n")[2] if ended.returncode else ""


class Pages(Contract):
    """How many pages a document has."""

    kind: Literal["pages"]
    pages: int = Field(ge=1)


class Size(Contract):
    """The child wants memory for a page of so many pixels; `Decoder.draw` gives it."""

    kind: Literal["size"]
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class Drawn(Contract):
    """A page lies in the shared memory."""

    kind: Literal["page"]
    angle: Literal[0, 90, 180, 270]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("the text would do more than show")
    return text


class TextLine(Contract):
    """A line of a PDF page's own text: its corners x before y, as in `producer.job.Line`."""

    quad: Annotated[list[FiniteFloat], Field(min_length=8, max_length=8)]
    text: Annotated[str, Field(min_length=1), AfterValidator(_printable)]


class Text(Contract):
    """A PDF page's own text, in pixels of the upright page."""

    kind: Literal["text"]
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    angle: Literal[0, 90, 180, 270]
    lines: list[TextLine]
    doubt: TextDoubt

    @model_validator(mode="after")
    def _on_the_page(self) -> Text:
        for line in self.lines:
            if min(line.quad) < 0 or max(line.quad[::2]) > self.width or max(line.quad[1::2]) > self.height:
                raise ValueError("a line lies outside the page")
        return self


class Refused(Contract):
    """The child would not decode it. Other codes are not its to give: one that was taken over could say `cancelled`."""

    kind: Literal["refusal"]
    code: Literal[
        "corrupt_document", "encrypted_document", "image_too_large", "too_many_pages", "unsupported_media_type"
    ]
    message: str = Field(max_length=500)
    retire: bool


class Ready(Contract):
    """The child has set its limits, and what it could of the sandbox."""

    kind: Literal["ready"]
    walls: list[str]


Reply = Pages | Size | Drawn | Text | Refused
READY = TypeAdapter(Ready)
REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])


class DecoderDied(Exception):
    """The child ended, or answered what no child of ours answers.

    `returncode` is that of `subprocess`; `asked` says whether the child had the request when it ended.
    """

    def __init__(self, returncode: int | None, *, asked: bool) -> None:
        super().__init__(f"the decoder ended with {returncode}")
        self.returncode = returncode
        self.asked = asked


class DecoderTimeout(Exception):
    """The child did not answer in time; it was killed."""


class Decoder:
    """A seat for one child process at a time. Used by one thread at a time; only `kill` may come from another.

    `start` must be called from a thread that outlives the child: the kernel ends the child with the *thread* that
    started it (prctl(2), PR_SET_PDEATHSIG), so that no child survives its worker.
    """

    def __init__(self, settings: Settings) -> None:
        self._limits = json.dumps(settings.model_dump(include=DECODER_LIMITS))
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._lock = threading.Lock()
        self._ready = False
        self._requests = 0
        #: What of the kernel's sandbox stands around the child; known once it is ready.
        self.walls: list[str] = []
        #: The document that the child has open.
        self.document: Path | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def usable(self) -> bool:
        """Whether a child runs that may take a request."""
        return self._process is not None and self._requests < REQUESTS_A_CHILD and self._process.poll() is None

    def start(self) -> None:
        """Start a child, without waiting until it is ready; ends the one before it."""
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno()), str(os.getpid()), self._limits],
                pass_fds=[theirs.fileno()],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is for the worker, which finishes its pages
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        with self._lock:
            self._process, self._channel = process, ours

    def wait_until_ready(self) -> None:
        """Return once the child takes requests.

        Raises:
            DecoderDied: it ended, or was not ready in time.
        """
        if self._channel is None:
            raise DecoderDied(None, asked=False)
        if not self._ready:
            self._await_ready(self._channel)

    def request(self, message: dict[str, object], *, timeout_s: float, document: int) -> Reply:
        """Ask the child about the document behind a descriptor.

        Raises:
            DecoderDied: it ended before it answered.
            DecoderTimeout: it took longer than `timeout_s`.
        """
        if self._channel is None:
            raise DecoderDied(None, asked=False)
        self.wait_until_ready()
        self._requests += 1
        try:
            socket.send_fds(self._channel, [json.dumps(message).encode()], [document])
        except OSError:
            raise self._death(asked=False) from None
        return self._answer(self._channel, timeout_s)

    def draw(self, memory: int, *, timeout_s: float) -> Reply:
        """Let the child, which asked with a `Size`, draw on a descriptor's memory; raises as `request` does."""
        if self._channel is None:
            raise DecoderDied(None, asked=True)
        try:
            socket.send_fds(self._channel, [b'{"kind": "draw"}'], [memory])
        except OSError:
            raise self._death(asked=True) from None
        return self._answer(self._channel, timeout_s)

    def kill(self) -> None:
        """End the child now; whoever waits for its answer gets `DecoderDied`."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the child, wait until it is gone, and free the socket."""
        with self._lock:
            process, channel = self._process, self._channel
            self._process, self._channel, self.document = None, None, None
            self._ready, self._requests = False, 0
        if channel is not None:
            channel.close()
        if process is not None:
            process.kill()
            process.wait()

    def _await_ready(self, channel: socket.socket) -> None:
        try:
            self.walls = self._check(self._receive(channel, START_TIMEOUT_S), READY).walls
        except DecoderTimeout:
            raise DecoderDied(None, asked=False) from None
        self._ready = True

    def _answer(self, channel: socket.socket, timeout_s: float) -> Reply:
        reply = self._check(self._receive(channel, timeout_s), REPLY)
        if isinstance(reply, Refused) and reply.retire:
            self._requests = REQUESTS_A_CHILD
        return reply

    def _receive(self, channel: socket.socket, timeout_s: float) -> bytes:
        channel.settimeout(max(timeout_s, 0.001))
        try:
            reply = channel.recv(REPLY_BYTES)
        except TimeoutError:
            self.close()
            raise DecoderTimeout from None
        except OSError:
            raise self._death() from None
        if not reply:
            raise self._death()
        return reply

    def _check(self, reply: bytes, shape: TypeAdapter[Shape]) -> Shape:
        try:
            return shape.validate_json(reply)
        except ValidationError:
            asked = self._ready
            self.close()
            raise DecoderDied(None, asked=asked) from None

    def _death(self, *, asked: bool | None = None) -> DecoderDied:
        """Take the child's exit status; one that still runs, with its end of the socket shut, is killed."""
        process, asked = self._process, self._ready if asked is None else asked
        returncode = None
        if process is not None:
            try:
                returncode = process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                process.kill()
        self.close()
        return DecoderDied(returncode, asked=asked)
