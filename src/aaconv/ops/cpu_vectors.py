"""The vector operations that the Numba kernels are made of.

An array is given with the flat offset of its first number, rows of scratch are ``ROW`` numbers apart, and ``rows``
holds four rows of ``width`` numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba.core import cgutils

from aaconv.ops.cpu_code import LANES, LIMIT, ROW, WIDE, Code, vector_operation


def _emit_add_term(code: Code) -> None:
    target, to, source, at, term = code.values
    code.store(code.builder.fadd(code.load(source, at), code.spread(term)), target, to)


def _emit_add(code: Code) -> None:
    target, to, source, at = code.values
    code.store(code.builder.fadd(code.load(target, to), code.load(source, at)), target, to)


def _emit_sum(code: Code) -> Any:
    source, at = code.values
    return code.sum(code.load(source, at))


def _emit_masked_sum(code: Code) -> Any:
    source, at, mask, place = code.values
    return code.sum(code.builder.fmul(code.load(source, at), code.load(mask, place)))


def _product(vectors: int) -> Callable[[Code], None]:
    def emit(code: Code) -> None:
        target, to, channels, at, rows, width = code.values
        for r, row in enumerate(_sums_of_products(code, vectors, target, to, channels, at, rows, width)):
            for v, total in enumerate(row):
                code.store(total, target, code.plus(to, r * ROW + v * LANES))

    return emit


def _sums_of_products(
    code: Code, vectors: int, target: Any, to: Any, channels: Any, at: Any, rows: Any, width: Any
) -> list[list[Any]]:
    """4 rows of target + rows @ ``width`` rows of channels, ``vectors`` vectors each."""
    totals = [[cgutils.alloca_once_value(code.builder, x) for x in row] for row in _held(code, vectors, target, to)]
    with cgutils.for_range(code.builder, width) as loop:
        start = code.builder.add(at, code.builder.mul(loop.index, code.integer(ROW)))
        keys = [code.load(channels, code.plus(start, v * LANES)) for v in range(vectors)]
        for r in range(4):
            factor = code.number(rows, r, width, loop.index)
            for key, total in zip(keys, totals[r], strict=True):
                code.builder.store(code.multiply_add(factor, key, code.builder.load(total)), total)
    return [[code.builder.load(total) for total in row] for row in totals]


def _outer(vectors: int) -> Callable[[Code], None]:
    def emit(code: Code) -> None:
        target, to, weights, at, rows, width = code.values
        held = _held(code, vectors, weights, at)
        with cgutils.for_range(code.builder, width) as loop:
            start = code.builder.add(to, code.builder.mul(loop.index, code.integer(ROW)))
            factors = [code.number(rows, r, width, loop.index) for r in range(4)]
            for v in range(vectors):
                place = code.plus(start, v * LANES)
                total = code.load(target, place)
                for r in range(4):
                    total = code.multiply_add(factors[r], held[r][v], total)
                code.store(total, target, place)

    return emit


def _dots(vectors: int) -> Callable[[Code], None]:
    def emit(code: Code) -> None:
        lanes, weights, at, channels, start, width = code.values
        _add_lanes(code, lanes, _held(code, vectors, weights, at), channels, start, width)

    return emit


def _held(code: Code, vectors: int, weights: Any, at: Any) -> list[list[Any]]:
    """4 rows of ``vectors`` vectors of weights."""
    return [[code.load(weights, code.plus(at, r * ROW + v * LANES)) for v in range(vectors)] for r in range(4)]


def _add_lanes(code: Code, lanes: Any, held: list[list[Any]], channels: Any, start: Any, width: Any) -> None:
    """lanes [4, width, LANES] += 4 rows of vectors * each of ``width`` rows of channels."""
    with cgutils.for_range(code.builder, width) as loop:
        row = code.builder.add(start, code.builder.mul(loop.index, code.integer(ROW)))
        keys = [code.load(channels, code.plus(row, v * LANES)) for v in range(len(held[0]))]
        for r in range(4):
            place = code.builder.add(code.builder.mul(width, code.integer(r)), loop.index)
            place = code.builder.mul(place, code.integer(LANES))
            total = code.load(lanes, place)
            for weight, key in zip(held[r], keys, strict=True):
                total = code.multiply_add(weight, key, total)
            code.store(total, lanes, place)


def _attend(vectors: int) -> Callable[[Code], None]:
    def emit(code: Code) -> None:
        logits, at, keys, key, rows, width, factor, shift, sums, values, value, lanes, count = code.values
        totals = _sums_of_products(code, vectors, logits, at, keys, key, rows, width)
        weights = []
        for r, row in enumerate(totals):
            less, rest = (code.builder.load(code.builder.gep(shift, [code.integer(i)])) for i in (r, 4 + r))
            weights.append([code.power_of_two(code.scaled(x, factor, less, rest), limit=LIMIT) for x in row])
            place = code.integer(r * LANES)
            code.store(functools.reduce(code.builder.fadd, weights[r], code.load(sums, place)), sums, place)
        _add_lanes(code, lanes, weights, values, value, count)

    return emit


def _emit_weigh(code: Code) -> None:
    logits, gradients, at, factor, lse, rest, mean = code.values
    weight = code.power_of_two(code.scaled(code.load(logits, at), factor, lse, rest))
    code.store(weight, logits, at)
    centred = code.builder.fsub(code.load(gradients, at), code.spread(mean))
    code.store(code.builder.fmul(weight, centred), gradients, at)


def _emit_lead(code: Code) -> None:
    largest, *arguments = code.values
    for r, (vector,) in enumerate(_sums_of_products(code, 1, *arguments)):
        code.builder.store(code.largest(vector), code.builder.gep(largest, [code.integer(r)]))


# add_term(target, to, source, at, term): a vector of target = a vector of source + term
add_term = vector_operation(_emit_add_term, "add_term", 5)
# add(target, to, source, at): a vector of target += a vector of source
add = vector_operation(_emit_add, "add", 4)
# lane_sum(source, at): the sum of a vector of source
lane_sum = vector_operation(_emit_sum, "lane_sum", 2, result="number")
# masked_sum(source, at, mask, place): the sum of a vector of source times a vector of mask
masked_sum = vector_operation(_emit_masked_sum, "masked_sum", 4, result="number")
# add_product(target, to, channels, at, rows, width): 4 rows of target += rows @ ``width`` rows of channels
add_product_wide = vector_operation(_product(WIDE), "add_product_wide", 6)
add_product_one = vector_operation(_product(1), "add_product_one", 6)
# add_outer(target, to, weights, at, rows, width): ``width`` rows of target += rows.T @ 4 rows of weights
add_outer_wide = vector_operation(_outer(WIDE), "add_outer_wide", 6)
add_outer_one = vector_operation(_outer(1), "add_outer_one", 6)
# add_dots(lanes, weights, at, channels, start, width): lanes [4, width, LANES] += 4 rows of weights * each of
# ``width`` rows of channels, lane by lane; the sum over lanes is left to the end
add_dots_wide = vector_operation(_dots(WIDE), "add_dots_wide", 6)
add_dots_one = vector_operation(_dots(1), "add_dots_one", 6)
# lead(largest, logits, at, keys, key, rows, width): the largest lane of each of 4 vectors of logits + rows @ keys
lead = vector_operation(_emit_lead, "lead", 7)
# attend(logits, at, keys, key, rows, width, factor, shift, sums, values, value, lanes, count): for weights
# 2^(factor * (4 rows of logits + rows @ ``width`` rows of keys) - shift), with shift [2, 4] in two parts to be added,
# sums [4, LANES] += weights and lanes [4, count, LANES] += weights * ``count`` rows of values
attend_wide = vector_operation(_attend(WIDE), "attend_wide", 13)
attend_one = vector_operation(_attend(1), "attend_one", 13)
# weigh(logits, gradients, at, factor, lse, rest, mean): a vector of logits becomes the softmax weights
# 2^(factor * logits - lse - rest), and one of their gradients the logits' gradients, weights * (gradients - mean)
weigh = vector_operation(_emit_weigh, "weigh", 7)
