"""Damaged copies of good files, the same for the same seed: flipped, cut, spliced, repeated bytes and false lengths."""

import random

NUMBERS = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
DIGITS = b"0123456789"


def damaged(seeds, number, *, words=(), reseal=None, seed=0):
    """The ``number``-th damaged file made of the good ones.

    Args:
        seeds: Bytes of good files; the first is left whole as number 0, the second as number 1, and so on.
        words: What to put in as well: bytes that mean something in the format.
        reseal: Mends checksums, so that the damage reaches what lies behind them; done to half of the files.
        seed: Of all numbers.
    """
    if number < len(seeds):
        return seeds[number]
    draw = random.Random(f"{seed} {number}")
    content = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        draw.choice(CHANGES)(content, draw, seeds, words)
    whole = bytes(content)
    return reseal(whole) if reseal and draw.random() < 0.5 else whole


def _flip(content, draw, seeds, words):
    if content:
        content[_place(content, draw)] ^= 1 << draw.randrange(8)


def _set(content, draw, seeds, words):
    if content:
        content[_place(content, draw)] = draw.choice((0, 0xFF, 0x20, 0x7F, draw.randrange(256)))


def _cut(content, draw, seeds, words):
    del content[_place(content, draw) :]


def _drop(content, draw, seeds, words):
    start = _place(content, draw)
    del content[start : start + draw.choice((1, 2, 4, 16, 512))]


def _repeat(content, draw, seeds, words):
    start, size = _place(content, draw), draw.choice((1, 4, 32, 512))
    content[start:start] = content[start : start + size] * draw.choice((1, 2, 9))


def _splice(content, draw, seeds, words):
    other = draw.choice(seeds)
    start = _place(other, draw)
    content[_place(content, draw) :] = other[start:]


def _insert(content, draw, seeds, words):
    start = _place(content, draw)
    content[start:start] = (
        draw.choice(words) if words and draw.random() < 0.7 else draw.randbytes(draw.choice((1, 4, 64)))
    )


def _overwrite(content, draw, seeds, words):
    if words:
        word, start = draw.choice(words), _place(content, draw)
        content[start : start + len(word)] = word


def _falsify(content, draw, seeds, words):
    """A number, such as a length, becomes another."""
    size, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
    start = _place(content, draw)
    content[start : start + size] = (draw.choice(NUMBERS) % 256**size).to_bytes(size, order)


def _miscount(content, draw, seeds, words):
    """A digit of a number in letters becomes another."""
    places = [place for place, byte in enumerate(content[:4096]) if byte in DIGITS]
    if places:
        content[draw.choice(places)] = draw.choice(DIGITS)


CHANGES = (_flip, _flip, _set, _cut, _drop, _repeat, _splice, _insert, _overwrite, _falsify, _falsify, _miscount)


def _place(content, draw):
    """Anywhere, but half of the time near the beginning, where headers are."""
    end = len(content)
    return draw.randrange(min(end, 64) if draw.random() < 0.5 else end) if end else 0
