"""Blobs as objects of an S3 bucket, on AWS or whatever speaks its API. boto3 is imported here alone, when it is used.

Region, credentials and endpoint are boto3's own: `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL_S3` and so on.

Both ways are checked: the server compares what it receives with its MD5 (`Content-MD5`, which every S3 knows), and an
object carries the SHA-256 of its bytes, which a reader compares. What passes (throttling, resets, half bodies) is tried
again for a while, then the store is `Unavailable`. Something in front of S3 may answer in its stead: without a code of
S3 an answer says nothing about an object.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Final, TypeVar

import structlog

from producer.blobs import GONE, LONGEST_LINK_S, checked
from producer.errors import NotFound, OcrpoolError, TooLarge, Unavailable

log = structlog.get_logger(__name__)

Returned = TypeVar("Returned")

#: A document of this size or more goes up in parts of it, one in memory at a time. S3 takes no part below 5 MiB.
PART_BYTES: Final = 8 << 20
CHUNK_BYTES: Final = 1 << 20
#: Pauses between tries, the last one again and again, each shortened by up to a half, and when no further try is begun.
PAUSES_S: Final = (0.1, 0.3, 1.0, 2.0, 4.0)
PATIENCE_S: Final = 30.0
#: The same where others wait meanwhile: units that the sweeper finds, whoever starts a process.
BRIEFLY_S: Final = 7.5
CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 20
CONNECTIONS: Final = 64

_PASSING = frozenset({
    "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "InternalError",
    "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException",
    "TooManyRequests", "XAmzContentSHA256Mismatch",
})  # fmt: skip
_CREDENTIALS = frozenset({"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"})


#: A code of S3. Where an answer that is an error has none, botocore gives its HTTP status as the code, or nothing.
_NAMED = re.compile(r"[A-Za-z][\w.-]{0,79}", re.ASCII)
#: What is in the answer of whoever has done it. A page of a proxy, with status 200, has it not.
_SIGNS = {
    "complete_multipart_upload": "ETag",
    "create_multipart_upload": "UploadId",
    "get_object": "ETag",
    "put_object": "ETag",
    "upload_part": "ETag",
}


class _Damaged(Exception):
    """What came is not what was stored."""


class _NotS3(Exception):
    """An answer that S3 does not give."""


class _Unreadable(Exception):
    """A file that boto3 reads for itself, such as one with a token. Of the caller's files it knows nothing."""


def split(url: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`. Nothing in it is an escape or a query: keys are taken as they stand."""
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


class Bucket:
    """One bucket, reached patiently. Safe to share between threads. `subject` begins the sentence of an error."""

    def __init__(
        self,
        name: str,
        subject: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._subject = subject
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}

    def client(self, endpoint_url: str = "") -> Any:
        """Made when it is first needed: boto3 takes a while to import."""
        with self._lock:
            if endpoint_url not in self._clients:
                self._clients[endpoint_url] = _connect(endpoint_url, self._subject)
            return self._clients[endpoint_url]

    def call(
        self, operation: str, *, patience_s: float = PATIENCE_S, expected: Collection[str] = (), **arguments: object
    ) -> Any:
        """What S3 answers.

        Raises:
            Unavailable: it cannot be reached, or refuses.
            ClientError: of the codes that are `expected`, which the caller understands.
        """
        return self.attempt(
            lambda client: _asked(client, operation, Bucket=self.name, **arguments),
            patience_s=patience_s,
            expected=expected,
        )

    def attempt(
        self,
        work: Callable[[Any], Returned],
        *,
        patience_s: float = PATIENCE_S,
        expected: Collection[str] = (),
        endpoint_url: str = "",
    ) -> Returned:
        """`work(client)`, again where it failed for a reason that passes. Whatever boto3 raises is `Unavailable`."""
        client = self.client(endpoint_url)
        started, pauses = self._clock(), chain(PAUSES_S, repeat(PAUSES_S[-1]))
        while True:
            try:
                return work(client)
            except Exception as error:
                if _is_the_callers(error) or code_of(error) in expected:
                    raise
                reason, passes = _reason(error)
                pause_s = next(pauses) * (1 - self._chance() / 2)
                if not passes or self._clock() - started + pause_s > patience_s:
                    raise Unavailable(f"{self._subject} {reason}.") from error
                log.info("s3.tried_again", bucket=self.name, because=reason, error=repr(error)[:200])
                self._sleep(pause_s)

    def download(self, key: str, sink: IO[bytes], *, most_bytes: int | None = None, signed: bool = True) -> None:
        """Write the object's bytes to the empty `sink`. A body that ends early is gone on with from there.

        `signed` objects are our own, and carry their SHA-256.

        Raises:
            NotFound, Unavailable
            TooLarge: it has more than `most_bytes`.
        """
        etag, digest = "", hashlib.sha256()

        def begin_anew() -> None:
            nonlocal digest
            sink.seek(0)
            sink.truncate()
            digest = hashlib.sha256()

        def check_room_for(more_bytes: int) -> None:
            if most_bytes is not None and sink.tell() + more_bytes > most_bytes:
                raise TooLarge(f"The document has more than {most_bytes:,} bytes.")

        def go_on(client: Any) -> None:
            nonlocal etag
            rest = {"Range": f"bytes={sink.tell()}-", "IfMatch": etag} if sink.tell() else {}
            try:
                answer = _asked(client, "get_object", Bucket=self.name, Key=key, **rest)
            except Exception as error:
                if code_of(error) == "NoSuchKey":
                    raise NotFound(GONE) from error
                if rest and code_of(error) in ("PreconditionFailed", "412", "InvalidRange", "416"):
                    begin_anew()
                    raise _Damaged from error
                raise
            if sink.tell() and "ContentRange" not in answer:
                begin_anew()
            etag = answer["ETag"]
            with closing(answer["Body"]) as body:
                check_room_for(answer.get("ContentLength", 0))  # Not told of a body that comes in chunks.
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    check_room_for(len(chunk))
                    sink.write(chunk)
                    digest.update(chunk)
            if signed and _sha256_in(answer) != digest.hexdigest():
                begin_anew()
                raise _Damaged

        self.attempt(go_on)


class _Copy:
    """A blob on this machine's disk. The file has no name: nothing is left behind, whatever is killed."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by its last reader
        self.lock = threading.Lock()
        self.complete = False
        self.readers = 0


class S3Store:
    """A `BlobStore` of the objects below `s3://bucket/prefix`.

    The credentials need `s3:ListBucket` and `s3:ListBucketMultipartUploads` on the bucket, and below the prefix
    `s3:GetObject`, `s3:PutObject`, `s3:DeleteObject` and `s3:AbortMultipartUpload`.
    """

    def __init__(self, url: str, *, public_url: str = "", bucket: Bucket | None = None) -> None:
        """`public_url`: the endpoint that links name; empty: the one that this process uses."""
        self.url = url
        name, prefix = split(url)
        self._prefix = f"{prefix.strip('/')}/".lstrip("/")
        self._public_url = public_url
        self._bucket = bucket or Bucket(name, "The blob store")
        self._lock = threading.Lock()
        self._copies: dict[str, _Copy] = {}

    def _key(self, key: str) -> str:
        return self._prefix + checked(key)

    def put(self, key: str, source: bytes | IO[bytes]) -> None:
        self._write(self._key(key), source, {})

    def put_new(self, key: str, source: bytes | IO[bytes]) -> bool:
        """A server that knows no `If-None-Match` lets the last of two writers win, and tells both that they did."""
        try:
            self._write(self._key(key), source, {"IfNoneMatch": "*"})
        except Exception as error:
            if code_of(error) == "PreconditionFailed":
                return False
            raise
        return True

    def _write(self, key: str, source: bytes | IO[bytes], condition: dict[str, Any]) -> None:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        start = file.tell()
        first = file.read(PART_BYTES)
        digest = hashlib.sha256(first)
        if len(first) < PART_BYTES:
            named: dict[str, Any] = {"Key": key, "Metadata": {"sha256": digest.hexdigest()}}
            taken = ("PreconditionFailed",) if condition else ()
            self._bucket.call("put_object", expected=taken, Body=first, ContentMD5=_md5(first), **named, **condition)
            return
        del first
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        file.seek(start)
        self._write_in_parts(key, file, digest.hexdigest(), condition)

    def _write_in_parts(self, key: str, file: IO[bytes], sha256: str, condition: dict[str, Any]) -> None:
        begun = self._bucket.call("create_multipart_upload", Key=key, Metadata={"sha256": sha256})
        upload: dict[str, Any] = {"Key": key, "UploadId": begun["UploadId"]}
        try:
            parts: list[dict[str, object]] = []
            while part := file.read(PART_BYTES):
                number = len(parts) + 1
                answer = self._bucket.call("upload_part", PartNumber=number, Body=part, ContentMD5=_md5(part), **upload)
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            expected = ("NoSuchUpload", "PreconditionFailed") if condition else ("NoSuchUpload",)
            try:
                self._bucket.call(
                    "complete_multipart_upload",
                    expected=expected,
                    MultipartUpload={"Parts": parts},
                    **upload,
                    **condition,
                )
            except Exception as error:
                if code_of(error) != "NoSuchUpload":
                    raise
                # An answer was lost, and the upload is complete.
                if self._sha256_of(key) != sha256:
                    raise Unavailable("The blob store has lost the parts of the document.") from error
        except BaseException:
            with suppress(Exception):  # `delete_unfinished` finds what is left.
                self._bucket.call("abort_multipart_upload", patience_s=0, **upload)
            raise

    def _sha256_of(self, key: str) -> str:
        """Empty if there is no such object: the answer to HEAD has no body, and its status is all that it says."""
        try:
            return _sha256_in(self._bucket.call("head_object", expected=("404",), Key=key))
        except Exception as error:
            if code_of(error) != "404":
                raise
            return ""

    def get(self, key: str) -> bytes:
        content = io.BytesIO()
        self._bucket.download(self._key(key), content)
        return content.getvalue()

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        """One copy serves all who read the blob at a time: the spans of a document are read side by side."""
        name = self._key(key)
        with self._lock:
            if name not in self._copies:
                self._copies[name] = _Copy()
            copy = self._copies[name]
            copy.readers += 1
        try:
            with copy.lock:
                if not copy.complete:
                    self._fill(copy.file, name)
                    copy.complete = True
            yield Path(f"/proc/{os.getpid()}/fd/{copy.file.fileno()}")
        finally:
            with self._lock:
                copy.readers -= 1
                if not copy.readers:
                    del self._copies[name]
                    copy.file.close()

    def _fill(self, file: IO[bytes], name: str) -> None:
        file.seek(0)
        file.truncate()
        try:
            self._bucket.download(name, file)
            file.flush()
        except OSError as error:
            raise Unavailable(f"There is no room for the document: {error.strerror}.") from error

    def delete(self, key: str) -> None:
        self._bucket.call("delete_object", patience_s=BRIEFLY_S, Key=self._key(key))

    def delete_unfinished(self, older_than_s: float) -> int:
        before, deleted = time.time() - older_than_s, 0
        where: dict[str, Any] = {}
        while True:
            found: dict[str, Any] = {}
            with _unless("NoSuchUpload") as expected:  # Rclone's server says so where there was never one.
                asked = {"Prefix": self._prefix, **where}
                found = self._bucket.call("list_multipart_uploads", patience_s=BRIEFLY_S, expected=expected, **asked)
            for upload in found.get("Uploads", ()):
                if upload["Initiated"].timestamp() < before:
                    named = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    with _unless("NoSuchUpload") as expected:  # Its `put` may just have come to its end.
                        self._bucket.call("abort_multipart_upload", patience_s=BRIEFLY_S, expected=expected, **named)
                        deleted += 1
            if not found.get("IsTruncated"):
                return deleted
            where = {"KeyMarker": found["NextKeyMarker"], "UploadIdMarker": found["NextUploadIdMarker"]}

    def link(self, key: str, ttl_s: float, *, media_type: str = "", disposition: str = "") -> str | None:
        served = {"ResponseContentType": media_type, "ResponseContentDisposition": disposition}
        named = {"Bucket": self._bucket.name, "Key": self._key(key), **{k: v for k, v in served.items() if v}}
        for_s = min(round(ttl_s), LONGEST_LINK_S)
        return self._bucket.attempt(
            lambda client: str(client.generate_presigned_url("get_object", named, for_s)),
            patience_s=0,
            endpoint_url=self._public_url,
        )

    def check(self, *, patient: bool = True) -> None:
        # With its body S3 says why it refuses, which the answer to HEAD has not.
        missing = f"{self._prefix}ocrpool_asks_for_what_is_not_there"
        try:
            with _unless("NoSuchKey") as expected:
                patience_s = BRIEFLY_S if patient else 0
                self._bucket.call("get_object", patience_s=patience_s, expected=expected, Key=missing)
        except Unavailable as error:
            raise Unavailable(str(error).replace("The blob store", f"The blob store {self.url}", 1)) from error


def _connect(endpoint_url: str, subject: str) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise Unavailable(f"{subject} needs boto3, which is not installed: pip install 'ocrpool[s3]'.") from error
    config = Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": 1},  # One place tries again, and knows of bodies that end early.
        # Not every server knows boto3's trailing checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_appid="ocrpool",
    )
    try:
        client = boto3.session.Session().client("s3", endpoint_url=endpoint_url or None, config=config)
    except Exception as error:
        raise Unavailable(f"{subject} cannot be used as the AWS settings are: {str(error).rstrip('.')}.") from error
    client.meta.events.register_first("before-call.s3.HeadBucket", _unasked)
    return client


def _unasked(**_: object) -> tuple[SimpleNamespace, dict[str, Any]]:
    """The answer to boto3 where it asks for a bucket's region because an answer redirected it and named none.

    S3 names it. Anything else redirects that question, too: boto3 would ask it until its stack is full.
    """
    return SimpleNamespace(status_code=200), {"ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": {}}}


def _asked(client: Any, operation: str, **arguments: object) -> Any:
    """What S3 answers, once."""
    try:
        answer = getattr(client, operation)(**arguments)
    except OSError as error:
        if _is_the_callers(error):
            raise _Unreadable from error
        raise
    if operation in _SIGNS and not answer.get(_SIGNS[operation]):
        if "Body" in answer:
            answer["Body"].close()
        raise _NotS3
    return answer


def _is_the_callers(error: Exception) -> bool:
    from botocore.exceptions import BotoCoreError  # some of which are OSErrors

    return isinstance(error, OcrpoolError | OSError) and not isinstance(error, BotoCoreError)


def code_of(error: BaseException) -> str:
    """The code of an answer that is an error; empty for every other exception."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _reason(error: Exception) -> tuple[str, bool]:
    """Why S3 did not do it, and whether that passes."""
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, boto.ClientError):
        return _refusal(code_of(error), error.response)
    reason, passes = f"fails in a way that was not foreseen ({type(error).__name__})", True
    if isinstance(error, _Damaged):
        reason = "sends other bytes than were stored"
    elif isinstance(error, _NotS3 | ResponseParserError):
        reason = "does not answer as S3 does"
    elif isinstance(error, boto.HTTPClientError | boto.ConnectionError | boto.IncompleteReadError):
        reason = "cannot be reached"
    elif isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
        reason, passes = "was given no credentials", False
    elif isinstance(error, boto.BotoCoreError | _Unreadable):
        cause = error.__cause__ if isinstance(error, _Unreadable) else error
        reason, passes = f"cannot be used as the AWS settings are ({type(cause).__name__})", False
    return reason, passes


def _refusal(code: str, response: Mapping[str, Any]) -> tuple[str, bool]:
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    named = bool(_NAMED.fullmatch(code))
    told = code if named else f"HTTP {status}"
    # S3 says what is wrong, unless its answer is cut off on its way: another's refusal is not known to last.
    reason, passes = f"refuses the request ({told})", not named and status != 501
    if code in _CREDENTIALS:
        reason, passes = f"refuses the credentials ({told})", False
    elif code == "NoSuchBucket":
        reason, passes = "has no such bucket", False
    elif code in _PASSING or status in (408, 429) or (status >= 500 and status != 501):
        reason, passes = f"is overloaded or out of order ({told})", True
    elif 300 <= status < 400:
        reason, passes = f"answers that it is at another address ({told})", status not in (301, 308)
    elif status in (401, 403):
        reason, passes = f"denies access ({told})", False
    elif status == 404 and not named:
        reason = f"does not answer as S3 does ({told})"
    return reason, passes


@contextmanager
def _unless(code: str) -> Iterator[tuple[str]]:
    try:
        yield (code,)
    except Exception as error:
        if code_of(error) != code:
            raise


def _sha256_in(answer: dict[str, Any]) -> str:
    """The digest that an object of ours carries. Servers spell the names of metadata in ways of their own: rclone's
    gives back `Sha256`."""
    return next((str(value) for name, value in answer["Metadata"].items() if name.lower() == "sha256"), "")


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
