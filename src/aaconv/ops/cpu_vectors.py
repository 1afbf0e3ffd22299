"""Vector operations that the Numba kernels are made of, written as LLVM code where its own vectoriser falls short.

The compiler would check at run time, for each short loop, that two arrays do not overlap, and would keep sums in
memory. These work on whole vectors of ``LANES`` numbers: an array is given with the flat offset of its first number,
rows of scratch are ``ROW`` numbers apart, and ``rows`` holds four rows of ``width`` numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16  # numbers of a vector; the compiler splits it into what the machine has
TILE = 256  # keys of a tile at most
ROW = TILE + LANES  # distance of rows in scratch: a row of the map may be written LANES - 1 cells too far
WIDE = 4  # vectors that the wide forms below work on at once
CONTRACT = ("contract",)


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


def _vector_operation(emit: Callable[[_Code], Any], name: str, parameters: int, result: str | None = None) -> Any:
    """An intrinsic of ``parameters`` arguments; ``result`` "number" returns the arrays' element type."""

    def typed(arguments: tuple[Any, ...]) -> Any:
        number = next(kind.dtype for kind in arguments if isinstance(kind, types.Array))
        arguments = tuple(types.int64 if isinstance(kind, types.Integer) else kind for kind in arguments)
        return (number if result else types.void)(*arguments)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = emit(_Code(context, builder, signature, arguments))
        return context.get_dummy_value() if value is None else value

    names = ", ".join("abcdefgh"[:parameters])
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
    return _sum(code, code.load(source, at))


def _emit_masked_sum(code: _Code) -> Any:
    source, at, mask, place = code.values
    return _sum(code, code.builder.fmul(code.load(source, at), code.load(mask, place)))


def _sum(code: _Code, vector: Any) -> Any:
    kind = ir.FunctionType(code.scalar, [code.scalar, code.vector])
    suffix = f"v{LANES}f{8 * code.bytes}"
    reduce = cgutils.get_or_insert_function(code.builder.module, kind, f"llvm.vector.reduce.fadd.{suffix}")
    return code.builder.call(reduce, [ir.Constant(code.scalar, 0.0), vector], fastmath=("reassoc",))


def _product(vectors: int) -> Callable[[_Code], None]:
    def emit(code: _Code) -> None:
        target, to, channels, at, rows, width = code.values
        places = [[code.plus(to, r * ROW + v * LANES) for v in range(vectors)] for r in range(4)]
        totals = [[cgutils.alloca_once_value(code.builder, code.load(target, p)) for p in row] for row in places]
        with cgutils.for_range(code.builder, width) as loop:
            start = code.builder.add(at, code.builder.mul(loop.index, code.integer(ROW)))
            keys = [code.load(channels, code.plus(start, v * LANES)) for v in range(vectors)]
            for r in range(4):
                factor = code.number(rows, r, width, loop.index)
                for key, total in zip(keys, totals[r], strict=True):
                    code.builder.store(code.multiply_add(factor, key, code.builder.load(total)), total)
        for r in range(4):
            for place, total in zip(places[r], totals[r], strict=True):
                code.store(code.builder.load(total), target, place)

    return emit


def _outer(vectors: int) -> Callable[[_Code], None]:
    def emit(code: _Code) -> None:
        target, to, weights, at, rows, width = code.values
        held = [[code.load(weights, code.plus(at, r * ROW + v * LANES)) for v in range(vectors)] for r in range(4)]
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
        held = [[code.load(weights, code.plus(at, r * ROW + v * LANES)) for v in range(vectors)] for r in range(4)]
        with cgutils.for_range(code.builder, width) as loop:
            row = code.builder.add(start, code.builder.mul(loop.index, code.integer(ROW)))
            keys = [code.load(channels, code.plus(row, v * LANES)) for v in range(vectors)]
            for r in range(4):
                place = code.builder.add(code.builder.mul(width, code.integer(r)), loop.index)
                place = code.builder.mul(place, code.integer(LANES))
                total = code.load(lanes, place)
                for v in range(vectors):
                    total = code.multiply_add(held[r][v], keys[v], total)
                code.store(total, lanes, place)

    return emit


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
