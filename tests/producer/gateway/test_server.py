"""The gateway as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx

from producer.ledger import Ledger
from producer.settings import Settings, as_environment
from tests.producer.gateway.serving import submit

COMMAND = [sys.executable, "-m", "producer.gateway"]


def test_the_process_says_where_it_listens_and_stops_in_order(settings: Settings, ledger: Ledger) -> None:
    settings = settings.model_copy(update={"max_wait_s": 600})
    env = {**os.environ, **as_environment(settings)}
    with (
        subprocess.Popen(COMMAND, env=env, stdout=subprocess.PIPE, text=True) as process,
        ThreadPoolExecutor(1) as pool,
    ):
        # Given a gateway on a free port, with a client that waits
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "gateway.ready"
        with httpx.Client(base_url=ready["url"], timeout=600) as http:
            job_id = submit(http)
            poll = pool.submit(http.get, f"/v1/jobs/{job_id}?wait=600")
            while "ocrpool_http_long_polls 1.0" not in http.get("/metrics").text:
                pass
            # When it is told to stop
            process.send_signal(signal.SIGTERM)
            # Then the client has its answer, and the process ends well
            assert poll.result().json()["state"] == "queued"
        assert process.wait(30) == 0
        assert process.stdout.read() == ""


def test_an_address_in_use_is_one_clear_line(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {**os.environ, **as_environment(settings.model_copy(update={"gateway_port": port}))}
        done = subprocess.run(COMMAND, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"The gateway cannot listen on 127.0.0.1:{port}: Address already in use.\n"
    assert done.stdout == ""
