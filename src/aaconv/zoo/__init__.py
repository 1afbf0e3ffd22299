"""Small trained networks inside the package, each a safetensors file with a card beside it."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
SUFFIX = ".safetensors"


@cache
def checkpoints() -> dict[str, str]:
    """The packaged checkpoints, the one to begin with first, and what each is: its card's heading."""
    cards = sorted(FOLDER.glob("*.md"), key=lambda card: (card.stem != "digits", card.stem))
    return {card.stem: card.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for card in cards}


def locate_checkpoint(source: str | Path) -> Path:
    """The file ``source``, or the packaged checkpoint of that name where there is no such file.

    Raises:
        FileNotFoundError: Neither; the message says what there is.
    """
    path = Path(source)
    if path.is_file():
        return path
    if str(source) in checkpoints():
        return FOLDER / f"{source}{SUFFIX}"
    close = get_close_matches(str(source), checkpoints(), n=1) or checkpoints()
    raise FileNotFoundError(f"no checkpoint file {source}; packaged: {', '.join(close)}")
