"""Files over http that are gone on with from the byte where a connection was cut; without torch."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

TIMEOUT = 30.0  # seconds without an answer
RETRIES = 3  # one after another that bring nothing new
PAUSE = 1.0  # seconds before the next try, doubled by each that brings nothing
CHUNK = 2**16  # bytes
BUSY = (429, 500, 502, 503, 504)  # refusals that may not last
DROPPED = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class Piece(NamedTuple):
    """Some bytes of a file, the place of the first of them, and how many the file has, where the server tells."""

    start: int
    content: bytes
    total: int | None


class OtherPartError(ConnectionError):
    """The server sent another part than was asked for."""


def pieces(url: str, start: int = 0, *, say: Callable[[str], object] = lambda _: None) -> Iterator[Piece]:
    """A file from byte ``start`` on, over as many connections as bring something new and ``RETRIES`` that do not.

    A piece may begin before the end of the one before: some servers can only send everything again.

    Args:
        url: http or https.
        start: Bytes that are there already.
        say: Is told what happens, a line at a time.

    Raises:
        OSError: No connection, none that lasts, or the server refuses; the message is the reason alone.
    """
    place, most, idle = start, start, 0
    while True:
        idle += 1
        try:
            for piece in _receive(url, place):
                place = piece.start + len(piece.content)
                if place > most:
                    most, idle = place, 0
                yield piece
            return
        except HTTPError as error:
            error.close()
            reason = f"{error.code} {error.reason}"
            if error.code == 416 and place:  # nothing follows what is there, which then is of another file
                place = 0
            elif error.code not in BUSY:
                raise ConnectionError(reason) from error
        except DROPPED as error:
            place = 0 if isinstance(error, OtherPartError) else place
            reason = str(getattr(error, "reason", None) or error or type(error).__name__)
        if idle > RETRIES:
            raise ConnectionError(reason)
        say(f"{reason}; trying again" + ("" if place else " from the beginning"))
        time.sleep(PAUSE * 2**idle)


def _receive(url: str, start: int) -> Iterator[Piece]:
    """What one connection brings, from ``start`` on or, where the server knows no ranges, from the beginning."""
    headers = {"User-Agent": "aaconv"} | ({"Range": f"bytes={start}-"} if start else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        follows = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if response.status == 206 and not follows:
            raise OtherPartError("the server sent another part than was asked for")
        place = start if follows else 0
        total = None if response.length is None else place + response.length
        while content := response.read1(CHUNK):
            yield Piece(place, content, total)
            place += len(content)
    if total is not None and place < total:  # urllib takes a connection that closes for the end
        raise ConnectionError(f"the connection was cut at byte {place} of {total}")


class RemoteFile:
    """The bytes of ``url`` from the first to the last, for what reads a stream; raises as ``pieces``."""

    def __init__(self, url: str):
        self._pieces, self._held, self._at = pieces(url), b"", 0

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer at the end."""
        while len(self._held) < size and (piece := next(self._pieces, None)):
            new = piece.content[max(0, self._at - piece.start) :]  # the rest was given before a cut
            self._held += new
            self._at += len(new)
        given, self._held = self._held[:size], self._held[size:]
        return given

    def close(self) -> None:
        """Leave the connection."""
        self._pieces.close()  # type: ignore[attr-defined]  # a generator
