"""S3 servers of the tests' own: moto's, with the checks that it leaves out and faults on demand, and rclone's."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from producer.processes import Process

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

KEY, SECRET = "AKIATESTTESTTESTTEST", "secret"
BUCKET = "scans"


@dataclass(frozen=True)
class Foreign:
    """What something in front of S3 answers in its stead."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    #: So many bytes at the end of the body do not come.
    cut_bytes: int = 0
    #: The body's length is not told.
    in_chunks: bool = False


#: What becomes of a request, by its method and path: the code of the error that is answered instead, "lost" where it is
#: served and not answered, "flipped" where its body comes with a wrong byte, what another answers, or nothing.
Fault = Callable[[str, str], str | Foreign]


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class AnyS3:
    """One bucket behind a port of loopback."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
        )
        self.client.create_bucket(Bucket=BUCKET)

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What boto3 reads in a process that shall find the server, or the proxy before it."""
        return {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def below(self, url: str) -> list[str]:
        """The keys of the objects below `s3://bucket/prefix`."""
        prefix = url.removeprefix(f"s3://{BUCKET}/")
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
        return [entry["Key"] for entry in found.get("Contents", ())]

    def close(self) -> None:
        self.client.close()


class S3Server(AnyS3):
    """Moto's. The `fault` is asked about each request, and may let it pass."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        #: Moto looks and writes in two steps; S3 decides between writers.
        self._one_at_a_time = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.fault: Fault = lambda method, path: ""
        #: Method and path of every request.
        self.seen: list[tuple[str, str]] = []
        threading.Thread(target=self._server.serve_forever, name="s3", daemon=True).start()
        super().__init__(self._server.server_port)

    def close(self) -> None:
        super().close()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        self.seen.append((method, path))
        refusal = self.fault(method, path) or _refused(environ)
        if isinstance(refusal, Foreign):
            return _foreign(refusal, method, start_response)
        if refusal == "flipped":
            body, refusal = bytes([body[0] ^ 1]) + body[1:], ""
        if not refusal and not _arrived_whole(environ, body):
            refusal = "BadDigest"
        if refusal and refusal != "lost":
            return _error(refusal, start_response)
        environ["wsgi.input"] = io.BytesIO(body)
        with self._one_at_a_time:
            answer: Iterable[bytes] = self._moto(environ, start_response)
        if refusal == "lost":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return answer


def _refused(environ: WSGIEnvironment) -> str:
    signed = environ.get("HTTP_AUTHORIZATION", "") + environ.get("QUERY_STRING", "")
    return "" if KEY in signed else "InvalidAccessKeyId"


def _arrived_whole(environ: WSGIEnvironment, body: bytes) -> bool:
    wanted = environ.get("HTTP_CONTENT_MD5")
    return wanted is None or base64.b64decode(wanted) == hashlib.md5(body).digest()


def _foreign(answer: Foreign, method: str, start_response: StartResponse) -> Iterable[bytes]:
    length = [] if answer.in_chunks else [("Content-Length", str(len(answer.body)))]
    start_response(f"{answer.status} Foreign", [*answer.headers, *length, ("Connection", "close")])
    return [] if method == "HEAD" else [answer.body[: len(answer.body) - answer.cut_bytes]]


def _error(code: str, start_response: StartResponse) -> Iterable[bytes]:
    statuses = {"SlowDown": 503, "ServiceUnavailable": 503, "InternalError": 500, "BadDigest": 400}
    content = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    start_response(
        f"{statuses.get(code, 403)} {code}",
        [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))],
    )
    return [content]


class RcloneServer(AnyS3):
    """Rclone's, which keeps the objects in a folder and lets the last one of several writers win. As all servers in Go
    it spells the names of metadata in its own way."""

    def __init__(self, folder: Path) -> None:
        (folder / "objects").mkdir()
        rclone = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", str(folder / "objects")]
        options = ["--addr", "127.0.0.1:0", "--auth-key", f"{KEY},{SECRET}", "--config", os.devnull]
        self._process = Process("rclone", rclone + options, folder / "rclone.log")
        self._process.wait_until(lambda: "Starting s3 server" in self._process.log(), 30)
        super().__init__(int(self._process.log().rpartition(":")[2].partition("/")[0]))

    def close(self) -> None:
        super().close()
        self._process.kill()
