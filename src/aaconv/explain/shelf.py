"""What the page of ``aaconv explore`` holds: networks for everybody, and what each session looks at, for it alone.

Letters: N heads, H W attention grid.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Container, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from aaconv.data.images import GREY_MODES, decode, upright
from aaconv.explain import packing
from aaconv.explain.look import Look, Network, title_of
from aaconv.explain.samples import samples
from aaconv.nn.attention import PARTS

IMAGE_BYTES = 20_000_000  # of an image file that is taken
KEPT_EDGE = 2048  # pixels: a larger image is reduced to it before it is kept
LOADED = 4  # networks kept in memory for everybody


class Session:
    """What one open page looks at; nobody else's calls reach it."""

    def __init__(self) -> None:
        self.image: Image.Image | None = None
        self.name = ""
        self.token = ""  # of the looks that are shown; whoever knows it may ask for maps
        self.own: dict[str, Network] = {}  # networks that this page uploaded


class Shelf:
    """Networks by title, and the looks of all open pages.

    Args:
        checkpoints: Files, or names of those in the package; the first is shown first.

    Raises:
        FileNotFoundError, ValueError: The first is none that can be looked into.
    """

    def __init__(self, checkpoints: Sequence[str | Path]):
        self._loaded: dict[str, Network] = {}
        self._looks: dict[str, list[Look]] = {}
        self._lock = Lock()
        self._sources: dict[str, str | Path] = {}
        for source in checkpoints:
            self._sources[_free(title_of(source), self._sources)] = source
        first = self.network(next(iter(self._sources)), Session())
        first.look(next(iter(samples(first.card).values())))  # what is compiled and read once is, before anybody waits

    def titles(self, session: Session) -> list[str]:
        """The networks that a page may choose from."""
        return [*self._sources, *session.own]

    def network(self, title: str, session: Session) -> Network:
        """A network by title.

        Raises:
            ValueError: No such network, or it cannot be looked into.
        """
        if title in session.own:
            return session.own[title]
        if title not in self._sources:
            raise ValueError(f"no network {title!r}; there are {', '.join(self.titles(session))}")
        with self._lock:
            found = self._loaded.pop(title, None) or Network.load(self._sources[title])
            found.title = title
            self._loaded[title] = found  # the last used is the last to go
            while len(self._loaded) > LOADED:
                del self._loaded[next(iter(self._loaded))]
        return found

    def add(self, path: str | Path, session: Session) -> str:
        """Take an uploaded checkpoint for one page and delete the file; return its title.

        Raises:
            ValueError: It is no checkpoint of ours that can be looked into.
        """
        source = Path(path)
        try:
            network = Network.load(source)
        except ValueError as error:
            raise ValueError(str(error).replace(str(source), source.name)) from error
        finally:
            source.unlink(missing_ok=True)
        network.title = _free(network.title, self._sources)
        session.own = {network.title: network}  # one at a time: they may be large
        return network.title

    def take(self, path: str | Path, session: Session) -> None:
        """Take an uploaded image for one page and delete the file.

        Raises:
            ValueError: It is too large, or no image that can be read.
        """
        source = Path(path)
        try:
            if source.stat().st_size > IMAGE_BYTES:
                raise ValueError(f"{source.name} has more than {IMAGE_BYTES // 1_000_000} MB, make it smaller")
            content = source.read_bytes()
        finally:
            source.unlink(missing_ok=True)
        session.image, session.name = decode(source.name, _kept, content), source.stem

    def take_sample(self, title: str, index: int, session: Session) -> None:
        """Take a sample of a network for one page."""
        session.name, session.image = list(samples(self.network(title, session).card).items())[index]

    def look(self, titles: Sequence[str], session: Session) -> str:
        """Let networks look at the page's image; return what ``viewer.js`` shows, as JSON."""
        if session.image is None:
            raise ValueError("choose an image first")
        looks = [self.network(title, session).look(session.image) for title in titles]
        self.forget(session)
        session.token = secrets.token_urlsafe(16)
        self._looks[session.token] = looks
        scene = {"name": session.name, "networks": [packing.describe(look) for look in looks]}
        return json.dumps({"token": session.token, "scenes": [scene]}).replace("<", "\\u003c")

    def maps(self, asked: Any) -> dict[str, Any]:
        """Answer ``viewer.js``: ``{"token", "point": [x, y] in 0..1, "part"}`` -> ``{"maps"}`` or ``{"error"}``.

        The maps are, by network and layer, what every head attends to from the point, or null.
        """
        try:
            looks, point, part = self._looks[asked["token"]], asked["point"], asked["part"]
            x, y = (float(share) for share in point)
        except (TypeError, KeyError, ValueError, AttributeError):
            return {"error": "this picture is not kept any more"}
        if part not in PARTS or not (math.isfinite(x) and math.isfinite(y) and 0 <= x <= 1 and 0 <= y <= 1):
            return {"error": f"the point must lie in 0..1 and the part be one of {', '.join(PARTS)}"}
        return {"maps": [packing.pack_from(look, (x, y), part) for look in looks]}

    def forget(self, session: Session | None) -> None:
        """Let go of what a page looks at."""
        if session is not None:
            self._looks.pop(session.token, None)


def _free(title: str, taken: Container[str]) -> str:
    """A title that is not taken."""
    return title if title not in taken else _free(title + "'", taken)


def _kept(image: Image.Image) -> Image.Image:
    """Grey or in colour, upright, and no larger than needed; a network reduces it further."""
    whole = upright(image, 1 if image.mode in GREY_MODES else 3)
    whole.thumbnail((KEPT_EDGE, KEPT_EDGE))
    return whole
