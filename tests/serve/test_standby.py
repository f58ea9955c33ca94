"""While nothing listens on the endpoint's port, the standby answers 503; while something does, it keeps away."""

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from serve.standby import listeners, standing_by

OTHER = """
import http.server, socket, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    allow_reuse_port = True
    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

server = Server((sys.argv[1], int(sys.argv[2])), Answer)
print("ready", flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def other(host: str, port: int) -> Iterator["subprocess.Popen[str]"]:
    """A program that listens as Ray's proxy does and answers 200, until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", OTHER, host, str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def ask(host: str, port: int) -> http.client.HTTPResponse:
    """Post a body that no socket's buffer holds as a whole."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/score", bytes(8 * 2**20))
        answer = connection.getresponse()
        answer.read()
    return answer


def wait_for(host: str, port: int, status: int) -> None:
    """Ask until it is answered so; a port that stays closed fails the test."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionError):
            if ask(host, port).status == status:
                return
        time.sleep(0.05)
    pytest.fail(f"it was never answered {status}")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_it_answers_only_while_nobody_else_does(host: str) -> None:
    try:
        with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            port = free.getsockname()[1]
    except OSError:
        pytest.skip("no such address here")
    with other(host, port) as first, standing_by(host, port):
        assert {ask(host, port).status for _ in range(20)} == {200}
        first.kill()
        first.wait()
        wait_for(host, port, 503)
        for answer in (ask(host, port) for _ in range(5)):
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["content-type"] == "application/problem+json"
        with other(host, port):
            wait_for(host, port, 200)
            until = time.monotonic() + 60
            while listeners(host, port) != 1:
                assert time.monotonic() < until, "the standby did not go"
                time.sleep(0.05)
            assert {ask(host, port).status for _ in range(20)} == {200}
    assert listeners(host, port) == 0
