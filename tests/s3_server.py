"""A real S3 server (moto's) as a process of its own, on loopback, that a test may have answer 503 for a while."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.running import STOP_TIMEOUT

# Runs moto's own WSGI application behind a filter: PUT /__fault__ {"requests": n, "status": 503} fails the next n requests.
SERVER = """
import json, sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

app = DomainDispatcherApplication(create_backend_app)
left, seen = {"requests": 0, "status": 503}, {"requests": 0}

def filtered(environ, start):
    if environ["PATH_INFO"] == "/__fault__":
        if environ["REQUEST_METHOD"] == "PUT":
            left.update(json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({**left, "seen": seen["requests"]}).encode()]
    seen["requests"] += 1
    if left["requests"] > 0:
        left["requests"] -= 1
        start(f"{left['status']} Slow Down", [("Content-Type", "application/xml")])
        return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"]
    return app(environ, start)

server = make_server(sys.argv[1], 0, filtered, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "planted-secret-8d1f", "AWS_REGION": "us-east-1"}


class S3Server:
    """The server's address and what a process needs to reach it."""

    def __init__(self, host: str, port: int) -> None:
        self.url = f"http://{host}:{port}"
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": self.url, "AWS_EC2_METADATA_DISABLED": "true"}

    def fail(self, requests: int, status: int = 503) -> None:
        """The next requests are answered by an error."""
        self._ask("PUT", "__fault__", json.dumps({"requests": requests, "status": status}).encode())

    def faults_left(self) -> int:
        return int(json.loads(self._ask("GET", "__fault__"))["requests"])

    def requests_seen(self) -> int:
        return int(json.loads(self._ask("GET", "__fault__"))["seen"])

    def make_bucket(self, name: str) -> None:
        self._ask("PUT", name)

    def _ask(self, method: str, path: str, content: bytes | None = None) -> Any:
        request = urllib.request.Request(f"{self.url}/{path}", data=content, method=method)
        with urllib.request.urlopen(request, timeout=STOP_TIMEOUT) as answer:
            return answer.read()


@contextmanager
def s3_server(log: Path, host: str = "127.0.0.1", command: tuple[str, ...] = ()) -> Iterator[S3Server]:
    """Starts the server (by `command` before it, e.g. in a network namespace) and makes the bucket `studies`."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, sys.executable, "-c", SERVER, host], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, log.read_text()
            server = S3Server(host, int(port))
            if not command:
                _wait_until_it_answers(server)
                server.make_bucket("studies")
            yield server
        finally:
            process.kill()
            process.wait()


def _wait_until_it_answers(server: S3Server) -> None:
    until = time.monotonic() + STOP_TIMEOUT
    while time.monotonic() < until:
        with suppress(OSError):  # it may refuse, break off, or be slow to load
            server.faults_left()
            return
        time.sleep(0.1)
    raise AssertionError("the S3 server does not answer")
