"""Files over http: every byte once, whatever the connection does."""

import socket
import struct

import numpy as np
import pytest

from aaconv.data import remote
from aaconv.data.remote import RemoteFile, pieces
from tests.data.web import Handler

CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture(autouse=True)
def _content(server):
    server.content = CONTENT


def whole(url, size=10_000):
    """What a reader of ``size`` bytes at a time gets."""
    file = RemoteFile(url)
    given = [*iter(lambda: file.read(size), b"")]
    assert all(len(piece) == size for piece in given[:-1])
    assert file.read(size) == b""
    file.close()
    return b"".join(given)


@pytest.mark.parametrize("size", [999, 2**16, 10**6])
@pytest.mark.parametrize("ranges", [True, False])
def test_cuts_are_not_seen(server, size, ranges):
    server.ranges = ranges
    assert whole(server.url, size) == CONTENT
    assert server.asked == [None]
    server.cuts = [100_000, 0, 150_000 - 100_000 * ranges, 0]
    assert whole(server.url, size) == CONTENT
    assert server.asked[2:] == [f"bytes={start}-" for start in (100_000, 100_000, 150_000, 150_000)]


def test_retries_are_counted_from_the_last_new_byte(server):
    server.cuts = [0, 0, 0, 10, 0, 0, 0, 10, 0, 0, 0]
    assert whole(server.url) == CONTENT
    assert server.asked == [None] * 4 + ["bytes=10-"] * 4 + ["bytes=20-"] * 4


@pytest.mark.parametrize("ranges", [True, False])
def test_tries_that_bring_nothing_come_to_an_end(server, ranges):
    server.ranges, server.cuts = ranges, [100_000] + [0 if ranges else 60_000] * 50
    file = RemoteFile(server.url)
    assert file.read(100_000) == CONTENT[:100_000]
    with pytest.raises(OSError, match=r"^the connection was cut at byte (100000|60000) of 300000$"):
        file.read(1)
    assert len(server.asked) == 2 + remote.RETRIES


def test_waits_grow(server, monkeypatch):
    waits = []
    monkeypatch.setattr(remote, "PAUSE", 1.0)
    monkeypatch.setattr("time.sleep", waits.append)
    server.status = 503
    with pytest.raises(OSError, match=r"^503 Service Unavailable$"):
        list(pieces(server.url))
    assert waits == [2, 4, 8]


def test_a_pause_in_the_middle_is_told(server):
    server.cuts, server.refusals, said = [100_000], [200, 500, 200], []
    got = list(pieces(server.url, 1000, say=said.append))
    assert b"".join(piece.content for piece in got) == CONTENT[1000:]
    assert {piece.total for piece in got} == {300_000}
    assert said == [
        "the connection was cut at byte 101000 of 300000; trying again",
        "500 Internal Server Error; trying again",
    ]


@pytest.mark.parametrize("shift", [1, -5])
def test_another_part_is_not_taken(server, shift):
    server.cuts, server.shift = [100_000], shift
    assert whole(server.url) == CONTENT
    assert server.asked == [None, "bytes=100000-", None]


def test_a_length_that_is_not_told(server):
    server.length = False
    assert whole(server.url) == CONTENT


@pytest.mark.parametrize("status", [403, 404, 416])
def test_refusals_are_final(server, status):
    server.status = status
    with pytest.raises(OSError, match=rf"^{status} [A-Z].*$"):
        whole(server.url)
    assert server.asked == [None]


def chunked(handler):
    """Half of the file in chunks, then nothing: http.client calls that IncompleteRead."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n" % len(CONTENT) + CONTENT[:150_000])


def reset(handler):
    """The head, then a connection that is reset."""
    handler.send_response(200)
    handler.send_header("Content-Length", "300000")
    handler.end_headers()
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@pytest.mark.parametrize("fault", [chunked, reset, lambda handler: handler.wfile.write(b"no http\r\n")])
def test_other_faults_are_tried_again_and_then_errors(server, monkeypatch, fault):
    usual, left = Handler.do_GET, [fault]

    def answer(handler):
        handler.close_connection = True
        return left.pop()(handler) if left else usual(handler)

    monkeypatch.setattr(Handler, "do_GET", answer)
    monkeypatch.setattr(Handler, "finish", lambda self: None)
    assert whole(server.url) == CONTENT
    left.extend([fault] * 50)
    with pytest.raises(OSError, match=r"\w+"):
        whole(server.url)


def test_no_server_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        whole(f"http://127.0.0.1:{port}/")


def test_closing_leaves_the_connection(server):
    file = RemoteFile(server.url)
    file.read(10)
    file.close()
    assert len(file.read(10**6)) < remote.CHUNK  # what had come already
    assert file.read(1) == b""
