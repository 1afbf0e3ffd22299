"""Scalar functions of the Numba kernels that compile to vector code, in float32 and float64.

Numba's cache on the disk looks at the kernels' file alone: touch ``cpu_kernels.py`` after a change here.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload


def exp(x):
    """e^x in the dtype of x, as a polynomial that compiles to vector code (the library's does not)."""


def as_ordered(x):
    """The bits of x as an integer that sorts like x, NaN above all: integer maxima vectorise, float ones do not."""


def from_ordered(x):
    """The inverse of ``as_ordered``."""


@overload(exp, inline="always")
def _exp(x):
    if x == types.float32:

        def exp32(x):
            x = np.float32(-88.0) if x < np.float32(-88.0) else x  # where 2^n below becomes 0; NaN stays
            n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
            r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
            p = np.float32(1.9875691500e-4)
            p = p * r + np.float32(1.3981999507e-3)
            p = p * r + np.float32(8.3334519073e-3)
            p = p * r + np.float32(4.1665795894e-2)
            p = p * r + np.float32(1.6666665459e-1)
            p = p * r + np.float32(5.0000001201e-1)
            p = p * r * r + r + np.float32(1.0)
            power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
            return p * power

        return exp32

    def exp64(x):
        x = -709.1 if x < -709.1 else x
        n = np.floor(x * 1.4426950408889634 + 0.5)
        r = x - n * 0.693145751953125 - n * 1.42860682030941723212e-6
        p = 1.0 / 6227020800.0
        for factorial in (479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0):
            p = p * r + 1.0 / factorial
        p = p * r * r + r + 1.0
        power = np.int64((np.int64(n) + np.int64(1023)) << np.int64(52)).view(np.float64)
        return p * power

    return exp64


@overload(as_ordered, inline="always")
def _as_ordered(x):
    if x == types.float32:

        def ordered32(x):
            bits = np.float32(x).view(np.int32)
            return np.int32(bits ^ np.int32(np.int32(bits >> 31) & np.int32(0x7FFFFFFF)))

        return ordered32

    def ordered64(x):
        bits = np.float64(x).view(np.int64)
        return np.int64(bits ^ np.int64(np.int64(bits >> 63) & np.int64(0x7FFFFFFFFFFFFFFF)))

    return ordered64


@overload(from_ordered, inline="always")
def _from_ordered(x):
    if x == types.int32:

        def float32(x):
            return np.int32(x ^ np.int32(np.int32(x >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)

        return float32

    def float64(x):
        return np.int64(x ^ np.int64(np.int64(x >> 63) & np.int64(0x7FFFFFFFFFFFFFFF))).view(np.float64)

    return float64
