"""Requests as bytes on a socket, well formed and not: what a client library would never send."""

from collections.abc import Iterator

HOST = b"Host: 127.0.0.1\r\n"
CLOSE = b"Connection: close\r\n"
TARGETS = (
    b"*",
    b"",
    b"http://127.0.0.1/v1/version",
    b"//v1/version",
    b"/%00",
    b"/%ff%fe",
    b"/../../etc/passwd",
    b"/\xff",
)
METHODS = (b"TRACE", b"CONNECT", b"PUT", b"DELETE", b"PATCH", b"PROPFIND", b"get", b"G E T", b"\x00", b"A" * 5000)
VERSIONS = (b"HTTP/0.9", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"http/1.1", b"HTTP/1.1.1", b"")
LENGTHS = (b"-1", b"+5", b"5, 5", b"5,6", b"0x5", b"5.0", b"1e3", b" ", b"\xb2", b"9" * 30, b"9" * 5000, b"5;6")
HEADERS = (
    b"Host: a\r\nHost: b\r\n",
    b"Host\r\n",
    b": no name\r\n",
    b"Na me: x\r\n",
    b"X: \x00\r\n",
    b"X: a\r\n folded\r\n",
    b"X: \xff\xfe\r\n",
    b"X" * 40_000 + b": x\r\n",
    b"X: " + b"x" * 40_000 + b"\r\n",
    b"".join(b"X%d: x\r\n" % number for number in range(3000)),
    b"Expect: nonsense\r\n",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n",
    b"Authorization: Bearer " + b"a" * 20_000 + b"\r\n",
    b"Range: bytes=0-0,0-0,0-0\r\n",
    b"X-Request-ID: \x7f\x01\r\n",
)
CHUNKS = (
    b"zz\r\nabc\r\n0\r\n\r\n",
    b"-1\r\na\r\n0\r\n\r\n",
    b"ffffffffffffffffff\r\na\r\n0\r\n\r\n",
    b"5\r\nabc\r\n0\r\n\r\n",
    b"3;ext=" + b"x" * 20_000 + b"\r\nabc\r\n0\r\n\r\n",
    b"0\r\nTrailer: x\r\n\r\n",
    b"1\r\na\r\n" * 5000 + b"0\r\n\r\n",
)
QUERIES = (
    b"class_name=%ff",
    b"seed=1&seed=2",
    b"a&" * 3000,
    b"class_name=" + b"x" * 20_000,
    b"num_samples=" + b"9" * 5000,
)


def forms() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each request."""
    for number, target in enumerate(TARGETS):
        yield f"target {number}", b"GET " + target + b" HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
    for number, method in enumerate(METHODS):
        yield f"method {number}", method + b" /v1/version HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
    for number, version in enumerate(VERSIONS):
        yield f"version {number}", b"GET /v1/version " + version + b"\r\n" + HOST + CLOSE + b"\r\n"
    for number, length in enumerate(LENGTHS):
        head = b"POST /v1/score HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Type: image/png\r\n"
        yield f"length {number}", head + b"Content-Length: " + length + b"\r\n\r\nabcde"
        yield (
            f"length of the JSON {number}",
            b"POST /v2/models/first/infer HTTP/1.1\r\n"
            + HOST
            + CLOSE
            + b"Content-Length: 5\r\nInference-Header-Content-Length: "
            + length
            + b"\r\n\r\nabcde",
        )
    for number, header in enumerate(HEADERS):
        yield f"header {number}", b"GET /v1/version HTTP/1.1\r\n" + HOST + CLOSE + header + b"\r\n"
    for number, chunks in enumerate(CHUNKS):
        head = (
            b"POST /v1/score HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n"
        )
        yield f"chunks {number}", head + b"\r\n" + chunks
        yield f"chunks and a length {number}", head + b"Content-Length: 3\r\n\r\n" + chunks
    for number, query in enumerate(QUERIES):
        head = b"POST /v1/score?" + query + b" HTTP/1.1\r\n" + HOST + CLOSE
        yield f"query {number}", head + b"Content-Type: image/png\r\nContent-Length: 3\r\n\r\nabc"
    yield "nothing but line ends", b"\r\n" * 1000
    yield "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    yield "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(50)
