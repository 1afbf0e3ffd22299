"""Pickles of plain values and numpy arrays, read without calling anything that a pickle asks for.

A damaged or forged pickle can run any function; numpy's own parts, which arrays in pickles are made with, can be made
to crash, and lengths or places that are written in one to take all memory. So arrays are made here, out of their bytes,
and operations that plain values have no need of are refused.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

# Python's own operations on plain values, old and new, with arrays' GLOBAL, REDUCE and BUILD.
ADMITTED = {
    getattr(pickle, name)[0]
    for name in """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
    """.split()  # noqa: SIM905
}


def read_plain(content: bytes) -> Any:
    """What a pickle holds; arrays of numbers are numpy's where a dict at the top holds them.

    Raises:
        pickle.UnpicklingError: It asks for what plain values have no need of.
        Exception: It is damaged; errors are of any kind.
    """
    found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    if isinstance(found, dict):
        return {name: value.values if isinstance(value, _Array) else value for name, value in found.items()}
    return found


class _Number:
    """In place of ``numpy.dtype``: "u1", "f4"."""

    def __init__(self, code: str, align: object = False, copy: object = False):
        if not re.fullmatch("[iuf][1248]", code):
            raise pickle.UnpicklingError(f"it holds an array of {code!r}, no numbers")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.code = f"{'>' if state[1] == '>' else '<'}{self.code[-2:]}"


class _Array:
    """In place of ``numpy.ndarray``, empty until its bytes are there."""

    values = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, number, by_columns, content = state
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        values = np.frombuffer(raw, number.code).reshape(shape, order="F" if by_columns else "C")
        self.values = values.copy()  # that can be written to


def _empty_array(kind: type, shape: object, code: object) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("it holds an array of a kind of its own")
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # others do more than that
        raise pickle.UnpicklingError(f"it encodes as {encoding!r}")
    return text.encode("latin1")


STAND_INS: dict[tuple[str, str], Any] = {  # for all that a pickle may call, under the names of old and new numpy
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Number,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("_codecs", "encode"): _encode,
}


class _Operations(dict[int, Callable[..., None]]):
    def __missing__(self, code: int) -> Any:
        raise pickle.UnpicklingError(f"it has the operation {bytes([code])!r}, which plain values have no need of")


class _Unpickler(pickle._Unpickler):  # in C places in its memory are a list's
    dispatch = _Operations({code: run for code, run in pickle._Unpickler.dispatch.items() if code in ADMITTED})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
        return STAND_INS[module, name]
