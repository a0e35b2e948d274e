"""What a decoder that was taken over can still do: the kernel's part of the sandbox, tried from inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from producer.errors import Unavailable
from producer.settings import Settings
from worker.decoding import sandbox
from worker.rasterise import Rasteriser

#: Tries what no decoder has to do, and prints the name of each that worked.
ATTEMPTS = """
import ctypes, json, os, signal, socket, subprocess, sys
from worker.decoding import sandbox
from worker.decoding.confinement import die_with_parent

secret, parent, user = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if user:
    os.setuid(user)
die_with_parent(parent)
libc = ctypes.CDLL(None, use_errno=True)

def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")

attempts = {
    "a file": lambda: open(secret).close(),
    "a folder": lambda: os.listdir(os.path.dirname(secret)),
    "the worker's environment": lambda: open(f"/proc/{parent}/environ", "rb").close(),
    "the worker's descriptors": lambda: os.listdir(f"/proc/{parent}/fd"),
    "a new file": lambda: os.open(secret + ".new", os.O_CREAT | os.O_WRONLY),
    "removing a file": lambda: os.unlink(secret),
    "a TCP socket": lambda: socket.socket(socket.AF_INET),
    "a Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "a pair of sockets": lambda: socket.socketpair(),
    "a child": lambda: os.fork() or os._exit(0),
    "a program": lambda: os.execv("/bin/true", ["true"]),
    "a signal to the worker": lambda: os.kill(parent, 0),
    "tracing the worker": lambda: called(libc.ptrace(0x4206, parent, 0, 0)),
    "the worker's memory": lambda: called(libc.process_vm_readv(parent, None, 0, None, 0, 0)),
    "a new namespace": lambda: called(libc.unshare(0x10000000)),
    "the worker's limits": lambda: called(libc.prlimit(parent, 7, None, ctypes.create_string_buffer(16))),
}
walls = sandbox.enter()
worked = []
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError:
        continue
    worked.append(name)
print(json.dumps({"walls": walls, "worked": worked}))
"""

USERS = [0] if os.getuid() else [0, 65534]

needs_walls = pytest.mark.skipif(
    sys.platform != "linux" or not Path("/proc/sys/kernel/seccomp").exists(), reason="the kernel has no seccomp"
)


@needs_walls
@pytest.mark.parametrize("user", USERS, ids=["as it is", "as nobody"][: len(USERS)])
def test_a_decoder_reaches_nothing_but_what_it_was_sent(tmp_path: Path, user: int) -> None:
    secret = tmp_path / "another-document"
    secret.write_text("secret")

    ended = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, str(secret), str(os.getpid()), str(user)],
        capture_output=True,
        text=True,
        check=True,
    )

    said = json.loads(ended.stdout)
    if said["walls"] != list(sandbox.WALLS):
        pytest.skip(f"this kernel has {said['walls']} of the sandbox")
    assert said["worked"] == []
    assert secret.read_text() == "secret"


def test_a_worker_that_must_have_a_sandbox_does_not_start_without(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a kernel with a wall less than there must be
    monkeypatch.setattr("worker.rasterise.WALLS", (*sandbox.WALLS, "moat"))
    required = Rasteriser(Settings(rasterise_processes=1, sandbox="on"))
    tolerant = Rasteriser(Settings(rasterise_processes=1, sandbox="auto"))

    try:
        with pytest.raises(Unavailable, match=r"OCRPOOL_SANDBOX is on, and this kernel has no .*moat"):
            required.start()
        tolerant.start()
    finally:
        required.stop()
        tolerant.stop()
