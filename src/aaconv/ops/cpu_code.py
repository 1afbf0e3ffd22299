"""A small builder of vector code for Numba: whole vectors of ``LANES`` numbers, and functions made of them.

The compiler would check at run time, for each short loop, that two arrays do not overlap, and would keep sums in
memory; code written this way does neither.
"""

from __future__ import annotations

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


class Code:
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


def vector_operation(emit: Callable[[Code], Any], name: str, parameters: int, result: str | None = None) -> Any:
    """An intrinsic of ``parameters`` arguments; ``result`` "number" returns the arrays' element type."""

    def typed(arguments: tuple[Any, ...]) -> Any:
        number = next(kind.dtype for kind in arguments if isinstance(kind, types.Array))
        arguments = tuple(types.int64 if isinstance(kind, types.Integer) else kind for kind in arguments)
        return (number if result else types.void)(*arguments)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = emit(Code(context, builder, signature, arguments))
        return context.get_dummy_value() if value is None else value

    names = ", ".join("abcdefghijklm"[:parameters])
    scope: dict[str, Any] = {"typed": typed, "generate": generate}
    exec(f"def {name}(typingctx, {names}):\n    return typed(({names},)), generate", scope)  # Numba reads the signature
    return intrinsic(scope[name])
