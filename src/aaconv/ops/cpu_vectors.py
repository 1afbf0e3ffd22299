"""Vector operations that the Numba kernels are made of, written as LLVM code where its own vectoriser falls short.

The compiler would check at run time, for each short loop, that two arrays do not overlap, and would keep sums in
memory. These work on whole vectors of ``LANES`` numbers: an array is given with the flat offset of its first number,
rows of scratch are ``ROW`` numbers apart, and ``rows`` holds four rows of ``width`` numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16  # numbers of a vector; the compiler splits it into what the machine has
TILE = 256  # keys of a tile at most
ROW = TILE + LANES  # distance of rows in scratch: a row of the map may be written LANES - 1 cells too far


def _wide() -> int:
    """Vectors that the wide forms below work on at once: 4 fill the registers of AVX-512, 1 those of others."""
    try:
        return 4 if get_host_cpu_features().get("avx512f") else 1
    except RuntimeError:  # a machine that LLVM does not know
        return 1


WIDE = _wide()
CONTRACT = ("contract",)
LIMIT = 70.0  # powers of two are cut off here; what comes near it has to be computed with another shift
POWERS = {  # bytes of a number: least exponent, bits of the mantissa, polynomial for 2^r, |r| <= 1/2
    4: (-125.0, 23, (1.49017826e-4, 1.33895583e-3, 9.62002017e-3, 5.55036515e-2, 0.240226373, 0.693147182, 1.0)),
    8: (-1020.0, 52, tuple(math.log(2) ** n / math.factorial(n) for n in range(13, -1, -1))),
}


class _Code:
    """The builder with vector loads, stores and multiply-adds for one call."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any):
        self.builder = builder
        self.values = []
        for kind, value in zip(signature.args, arguments, strict=True):
            is_array = isinstance(kind, types.Array)
            self.values.append(context.make_array(kind)(context, builder, value).data if is_array else value)
        number = next(kind.dtype for kind in signature.args if isinstance(kind, types.Array))
        self.scalar = context.get_value_type(number)
        self.vector = ir.VectorType(self.scalar, LANES)
        self.bytes = 4 if number == types.float32 else 8

    def integer(self, value: int) -> Any:
        """A constant."""
        return ir.Constant(ir.IntType(64), value)

    def plus(self, offset: Any, numbers: int) -> Any:
        """``offset + numbers``."""
        return self.builder.add(offset, self.integer(numbers)) if numbers else offset

    def pointer(self, data: Any, offset: Any) -> Any:
        """The address of a vector."""
        return self.builder.bitcast(self.builder.gep(data, [offset]), self.vector.as_pointer())

    def load(self, data: Any, offset: Any) -> Any:
        """A vector from anywhere."""
        return self.builder.load(self.pointer(data, offset), align=self.bytes)

    def store(self, vector: Any, data: Any, offset: Any) -> None:
        """A vector to anywhere."""
        self.builder.store(vector, self.pointer(data, offset), align=self.bytes)

    def spread(self, number: Any) -> Any:
        """A number in every lane."""
        one = self.builder.insert_element(
            ir.Constant(self.vector, ir.Undefined), number, ir.Constant(ir.IntType(32), 0)
        )
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), lanes)

    def number(self, data: Any, row: int, width: Any, place: Any) -> Any:
        """Number ``place`` of row ``row`` of ``rows``, in every lane."""
        offset = self.builder.add(self.builder.mul(width, self.integer(row)), place)
        return self.spread(self.builder.load(self.builder.gep(data, [offset])))

    def multiply_add(self, a: Any, b: Any, total: Any) -> Any:
        """a * b + total, in one instruction where the machine has it."""
        return self.builder.fadd(self.builder.fmul(a, b, flags=CONTRACT), total, flags=CONTRACT)

    def scaled(self, x: Any, factor: Any, less: Any, rest: Any) -> Any:
        """x * factor - (less + rest): a rounding of ``less`` alone would weigh on all of a query's weights alike."""
        product = self.builder.fmul(x, self.spread(factor), flags=CONTRACT)
        return self.builder.fsub(self.builder.fsub(product, self.spread(less), flags=CONTRACT), self.spread(rest))

    def call(self, name: str, result: Any, arguments: list[Any], **options: Any) -> Any:
        """One of LLVM's functions on vectors."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        name = f"llvm.{name}.v{LANES}f{8 * self.bytes}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, arguments, **options)

    def sum(self, vector: Any) -> Any:
        """The sum of the lanes, in any order."""
        start = ir.Constant(self.scalar, 0.0)
        return self.call("vector.reduce.fadd", self.scalar, [start, vector], fastmath=("reassoc",))

    def largest(self, vector: Any) -> Any:
        """The largest lane; NaN may or may not be passed over."""
        step = LANES // 2
        while step:
            order = [(lane + step) % LANES for lane in range(LANES)]
            other = self.builder.shuffle_vector(
                vector, ir.Constant(self.vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
            )
            vector = self.builder.select(self.builder.fcmp_ordered(">", vector, other), vector, other)
            step //= 2
        return self.builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    def power_of_two(self, x: Any, limit: float | None = None) -> Any:
        """2^x, a polynomial on the split exponent, at least 2^least.

        What exceeds ``limit``, and NaN, becomes 2^limit; without it NaN stays and what exceeds 0 becomes 1.
        """
        least, mantissa, polynomial = POWERS[self.bytes]
        if limit is None:
            x = self.builder.select(self.builder.fcmp_ordered(">", x, self.every(0.0)), self.every(0.0), x)
        else:
            x = self.builder.select(self.builder.fcmp_ordered("<", x, self.every(limit)), x, self.every(limit))
        x = self.builder.select(self.builder.fcmp_ordered("<", x, self.every(least)), self.every(least), x)
        whole = self.call("rint", self.vector, [x])
        part = self.builder.fsub(x, whole)
        power = self.every(polynomial[0])
        for factor in polynomial[1:]:
            power = self.multiply_add(power, part, self.every(factor))
        narrow, bits = (ir.VectorType(ir.IntType(n), LANES) for n in (32, 8 * self.bytes))
        exponent = self.builder.fptosi(whole, narrow)
        if self.bytes == 8:
            exponent = self.builder.sext(exponent, bits)
        exponent = self.builder.shl(exponent, ir.Constant(bits, [mantissa] * LANES))
        return self.builder.bitcast(self.builder.add(self.builder.bitcast(power, bits), exponent), self.vector)

    def every(self, value: float) -> Any:
        """A constant in every lane."""
        return ir.Constant(self.vector, [value] * LANES)


def _vector_operation(emit: Callable[[_Code], Any], name: str, parameters: int, result: str | None = None) -> Any:
    """An intrinsic of ``parameters`` arguments; ``result`` "number" returns the arrays' element type."""

    def typed(arguments: tuple[Any, ...]) -> Any:
        number = next(kind.dtype for kind in arguments if isinstance(kind, types.Array))
        arguments = tuple(types.int64 if isinstance(kind, types.Integer) else kind for kind in arguments)
        return (number if result else types.void)(*arguments)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = emit(_Code(context, builder, signature, arguments))
        return context.get_dummy_value() if value is None else value

    names = ", ".join("abcdefghijklm"[:parameters])
    scope: dict[str, Any] = {"typed": typed, "generate": generate}
    exec(f"def {name}(typingctx, {names}):\n    return typed(({names},)), generate", scope)  # Numba reads the signature
    return intrinsic(scope[name])


def _emit_add_term(code: _Code) -> None:
    target, to, source, at, term = code.values
    code.store(code.builder.fadd(code.load(source, at), code.spread(term)), target, to)


def _emit_add(code: _Code) -> None:
    target, to, source, at = code.values
    code.store(code.builder.fadd(code.load(target, to), code.load(source, at)), target, to)


def _emit_sum(code: _Code) -> Any:
    source, at = code.values
    return code.sum(code.load(source, at))


def _emit_masked_sum(code: _Code) -> Any:
    source, at, mask, place = code.values
    return code.sum(code.builder.fmul(code.load(source, at), code.load(mask, place)))


def _product(vectors: int) -> Callable[[_Code], None]:
    def emit(code: _Code) -> None:
        target, to, channels, at, rows, width = code.values
        for r, row in enumerate(_sums_of_products(code, vectors, target, to, channels, at, rows, width)):
            for v, total in enumerate(row):
                code.store(total, target, code.plus(to, r * ROW + v * LANES))

    return emit


def _sums_of_products(
    code: _Code, vectors: int, target: Any, to: Any, channels: Any, at: Any, rows: Any, width: Any
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


def _outer(vectors: int) -> Callable[[_Code], None]:
    def emit(code: _Code) -> None:
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


def _dots(vectors: int) -> Callable[[_Code], None]:
    def emit(code: _Code) -> None:
        lanes, weights, at, channels, start, width = code.values
        _add_lanes(code, lanes, _held(code, vectors, weights, at), channels, start, width)

    return emit


def _held(code: _Code, vectors: int, weights: Any, at: Any) -> list[list[Any]]:
    """4 rows of ``vectors`` vectors of weights."""
    return [[code.load(weights, code.plus(at, r * ROW + v * LANES)) for v in range(vectors)] for r in range(4)]


def _add_lanes(code: _Code, lanes: Any, held: list[list[Any]], channels: Any, start: Any, width: Any) -> None:
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


def _attend(vectors: int) -> Callable[[_Code], None]:
    def emit(code: _Code) -> None:
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


def _emit_weigh(code: _Code) -> None:
    logits, gradients, at, factor, lse, rest, mean = code.values
    weight = code.power_of_two(code.scaled(code.load(logits, at), factor, lse, rest))
    code.store(weight, logits, at)
    centred = code.builder.fsub(code.load(gradients, at), code.spread(mean))
    code.store(code.builder.fmul(weight, centred), gradients, at)


def _emit_lead(code: _Code) -> None:
    largest, *arguments = code.values
    for r, (vector,) in enumerate(_sums_of_products(code, 1, *arguments)):
        code.builder.store(code.largest(vector), code.builder.gep(largest, [code.integer(r)]))


# add_term(target, to, source, at, term): a vector of target = a vector of source + term
add_term = _vector_operation(_emit_add_term, "add_term", 5)
# add(target, to, source, at): a vector of target += a vector of source
add = _vector_operation(_emit_add, "add", 4)
# lane_sum(source, at): the sum of a vector of source
lane_sum = _vector_operation(_emit_sum, "lane_sum", 2, result="number")
# masked_sum(source, at, mask, place): the sum of a vector of source times a vector of mask
masked_sum = _vector_operation(_emit_masked_sum, "masked_sum", 4, result="number")
# add_product(target, to, channels, at, rows, width): 4 rows of target += rows @ ``width`` rows of channels
add_product_wide = _vector_operation(_product(WIDE), "add_product_wide", 6)
add_product_one = _vector_operation(_product(1), "add_product_one", 6)
# add_outer(target, to, weights, at, rows, width): ``width`` rows of target += rows.T @ 4 rows of weights
add_outer_wide = _vector_operation(_outer(WIDE), "add_outer_wide", 6)
add_outer_one = _vector_operation(_outer(1), "add_outer_one", 6)
# add_dots(lanes, weights, at, channels, start, width): lanes [4, width, LANES] += 4 rows of weights * each of
# ``width`` rows of channels, lane by lane; the sum over lanes is left to the end
add_dots_wide = _vector_operation(_dots(WIDE), "add_dots_wide", 6)
add_dots_one = _vector_operation(_dots(1), "add_dots_one", 6)
# lead(largest, logits, at, keys, key, rows, width): the largest lane of each of 4 vectors of logits + rows @ keys
lead = _vector_operation(_emit_lead, "lead", 7)
# attend(logits, at, keys, key, rows, width, factor, shift, sums, values, value, lanes, count): for weights
# 2^(factor * (4 rows of logits + rows @ ``width`` rows of keys) - shift), with shift [2, 4] in two parts to be added,
# sums [4, LANES] += weights and lanes [4, count, LANES] += weights * ``count`` rows of values
attend_wide = _vector_operation(_attend(WIDE), "attend_wide", 13)
attend_one = _vector_operation(_attend(1), "attend_one", 13)
# weigh(logits, gradients, at, factor, lse, rest, mean): a vector of logits becomes the softmax weights
# 2^(factor * logits - lse - rest), and one of their gradients the logits' gradients, weights * (gradients - mean)
weigh = _vector_operation(_emit_weigh, "weigh", 7)
