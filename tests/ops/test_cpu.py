"""The Numba kernels: where they are safe, what they leave alone, and their parts. Parity is in the shared tests."""

import math
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numba import njit
from torch.utils.flop_counter import FlopCounterMode

from aaconv.ops import cpu, cpu_kernels, relative_attention_2d, threads
from aaconv.ops.cpu_math import as_ordered, exp, from_ordered
from aaconv.ops.decomposed import decomposed_attention, decomposed_attention_backward
from tests.ops.cases import inputs, run, via

LARGE = (1, 2, (20, 17), 8, 5)  # enough work to be shared out among threads


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def child(code, **environment):
    """Run ``code`` in a fresh process; its standard output."""
    code = textwrap.dedent(code)
    variables = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def terms(shape, dtype=torch.float64):
    """Arguments of the operator: q, k, v, bias_h, bias_w, scale."""
    batch, heads, (height, width), key, value = shape
    sizes = [(key,), (key,), (value,), (height,), (width,)]
    tensors = [torch.randn(batch, heads, height * width, *size, dtype=dtype, requires_grad=True) for size in sizes]
    return *tensors, 0.5


def test_operator_is_well_registered():
    torch.library.opcheck(decomposed_attention, terms((2, 2, (3, 4), 5, 3)))
    arguments = [t.detach() if isinstance(t, torch.Tensor) else t for t in terms((2, 2, (3, 4), 5, 3))]
    out, lse = decomposed_attention(*arguments)
    torch.library.opcheck(decomposed_attention_backward, (torch.randn_like(out), *arguments[:5], out, lse, 0.5))


def test_log_sum_exp():
    q, k, v, bias_h, bias_w, scale = terms((2, 2, (3, 4), 5, 3))
    logits = scale * (q @ k.mT + (bias_h[..., :, None] + bias_w[..., None, :]).flatten(-2))
    torch.testing.assert_close(decomposed_attention(q, k, v, bias_h, bias_w, scale)[1], logits.logsumexp(-1))


@pytest.mark.parametrize("grid", [(2, 300), (1, 257), (3, 256), (40, 40), (70, 3)], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_maps_of_many_tiles(grid, count, poisoned_empty):
    torch.set_num_threads(count)
    tensors = inputs((1, 1, grid, 5, 3), torch.float64)
    for got, wanted in zip(run(via("cpu"), tensors, grid), run(via("reference"), tensors, grid), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (7, 256), (9, 28), (2, 600), (300, 2)], ids=str)
def test_tiles_hold_every_key_once(grid):
    seen = np.zeros(grid, int)
    for y, rows, x, columns, width in cpu._tiles(*grid):
        assert rows * columns <= 256
        assert width == grid[1]
        seen[y : y + rows, x : x + columns] += 1
    assert (seen == 1).all()


def test_fifty_repeats_are_bit_equal():
    torch.set_num_threads(2)
    tensors = inputs(LARGE)
    first = run(via("cpu"), tensors, LARGE[2])
    for _ in range(49):
        assert all(torch.equal(a, b) for a, b in zip(first, run(via("cpu"), tensors, LARGE[2]), strict=True))


def test_sixteen_threads_at_once():
    torch.set_num_threads(2)
    tensors = inputs(LARGE)
    first = run(via("cpu"), tensors, LARGE[2])
    with ThreadPoolExecutor(16) as pool:
        for result in pool.map(lambda _: run(via("cpu"), tensors, LARGE[2]), range(64)):
            for a, b in zip(first, result, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("counts", [(1, 2, 5, 1)])
def test_follows_the_number_of_threads(counts):
    tensors = inputs(LARGE, torch.float64)
    wanted = run(via("reference"), tensors, LARGE[2])
    for count in counts:
        torch.set_num_threads(count)
        for a, b in zip(run(via("cpu"), tensors, LARGE[2]), wanted, strict=True):
            torch.testing.assert_close(a, b)
        if count > 1:
            assert threads._pool_size == count - 1


class _Attending(torch.utils.data.Dataset):
    """A data set whose items are computed with attention, in the loader's workers."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return relative_attention_2d(*(t.detach() for t in inputs(LARGE)), grid=LARGE[2], impl="cpu").sum()


FORKED = """
import multiprocessing, torch
from aaconv.ops import cpu, threads
from tests.ops.test_cpu import LARGE, _Attending, terms
torch.set_num_threads(2)
arguments = [t.detach() if isinstance(t, torch.Tensor) else t for t in terms(LARGE)]
wanted = cpu.forward(*arguments)[0]
assert threads._pool is not None
def attend(queue):  # the kernel alone: PyTorch's own parallel operators hang in a forked child
    queue.put(bool(torch.equal(cpu.forward(*arguments)[0], wanted)) and threads._pool is not None)
context = multiprocessing.get_context("fork")
queue = context.Queue()
workers = [context.Process(target=attend, args=(queue,)) for _ in range(2)]
[worker.start() for worker in workers]
assert [queue.get(timeout=60) for _ in workers] == [True, True]
[worker.join(60) for worker in workers]
loader = torch.utils.data.DataLoader(_Attending(), num_workers=2, multiprocessing_context="fork", timeout=60)
assert len({round(float(value), 2) for value in loader}) == 1
print("same")
"""


def test_forked_children_can_use_it_after_the_parent():
    assert "same" in child(FORKED)


def test_explicit_request_runs_the_kernel():
    tensors = inputs(LARGE)
    with patch.object(cpu_kernels, "compiled", wraps=cpu_kernels.compiled) as kernel:
        run(via("cpu"), tensors, LARGE[2])
        run(via("folded"), tensors, LARGE[2])
    assert [call.args[0].__name__ for call in kernel.call_args_list] == ["forward", "backward"]


def test_auto_takes_the_kernel_and_export_does_not():
    tensors = [t.detach() for t in inputs(LARGE)]
    with patch.object(cpu_kernels, "compiled", wraps=cpu_kernels.compiled) as kernel:
        relative_attention_2d(*tensors, grid=LARGE[2])
    assert kernel.called

    class Module(torch.nn.Module):
        def forward(self, *args):
            return relative_attention_2d(*args, grid=LARGE[2])

    program = torch.export.export(Module(), tuple(tensors))
    assert not [node for node in program.graph.nodes if "aaconv" in str(node.target)]


ATTEND = """
import torch
from aaconv.ops import relative_attention_2d
from aaconv.ops.relative_attention import IMPLEMENTATIONS
from tests.ops.cases import inputs
tensors = inputs((1, 2, (5, 6), 4, 3))
"""
REFUSED = """
relative_attention_2d(*tensors, grid=(5, 6)).sum().backward()
try:
    relative_attention_2d(*tensors, grid=(5, 6), impl="cpu")
except ValueError as error:
    print(error)
"""


def test_without_numba_auto_folds_and_a_request_says_why():
    said = child("import sys\nsys.modules['numba'] = None\n" + ATTEND + REFUSED)
    assert "impl='cpu' cannot run: Numba is not installed: pip install numba; impl='auto' takes what can" in said


def test_without_the_compiler_auto_folds_and_a_request_says_why():
    assert "Numba's compiler is switched off (NUMBA_DISABLE_JIT)" in child(ATTEND + REFUSED, NUMBA_DISABLE_JIT="1")


def test_no_folder_for_compiled_code():
    """Numba refuses to cache when it finds no folder to write to; the kernels are then compiled for the process."""
    code = "from numba.core import caching\ncaching.CacheImpl._locator_classes = []\n"
    ends = "print(float(relative_attention_2d(*tensors, grid=(5, 6), impl='cpu').sum()))"
    got = float(child(code + ATTEND + ends))
    tensors = inputs((1, 2, (5, 6), 4, 3))
    assert got == pytest.approx(float(relative_attention_2d(*tensors, grid=(5, 6), impl="reference").sum()), abs=1e-4)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory as Linux counts it")
def test_memory_grows_with_positions_not_with_pairs():
    """A 96x96 map, forward and backward: one float32 tensor of all pairs would be 324 MiB."""
    grown = child(
        """
        import torch
        from aaconv.ops import relative_attention_2d
        from tests.ops.cases import inputs
        def peak():  # KiB; ru_maxrss would begin at the parent's
            return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
        def step(edge):
            tensors = inputs((1, 1, (edge, edge), 4, 4))
            relative_attention_2d(*tensors, grid=(edge, edge), impl="cpu").sum().backward()
        step(32)
        before = peak()
        step(96)
        print(peak() - before)
        """
    )
    assert 4 * 1024 < int(grown) < 80 * 1024  # KiB; the terms of both axes and their gradients alone are 28 MiB


def test_flops_are_the_products():
    batch, heads, (height, width), key, value = shape = (2, 3, (4, 5), 6, 7)
    pairs = batch * heads * (height * width) ** 2
    arguments = terms(shape)
    with FlopCounterMode(display=False) as counter:
        out = decomposed_attention(*arguments)[0]
    assert counter.get_total_flops() == 2 * pairs * (key + value)
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2 * pairs * (3 * key + 2 * value)


def test_second_derivative_is_refused_with_the_remedy():
    tensors = inputs((1, 1, (2, 2), 2, 2), torch.float64)
    (first,) = torch.autograd.grad(via("cpu")(*tensors, grid=(2, 2)).square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; use impl='reference'"):
        first.sum().backward()


@pytest.mark.parametrize("dtype, bits", [(np.float32, 24), (np.float64, 53)])
def test_exponential_is_exact_to_a_few_roundings(dtype, bits):
    @njit
    def power(x, y):
        for i in range(len(x)):
            y[i] = exp(x[i])

    x = np.concatenate([np.linspace(-80, 0, 20_001), -np.logspace(-12, 1.9, 2000), [0.0]]).astype(dtype)
    got = np.empty_like(x)
    power(x, got)
    wanted = np.exp(x.astype(np.longdouble))
    assert float(np.abs(got / wanted - 1).max()) < 4 * 2.0**-bits
    special = np.array([-np.inf, -1e30, np.nan], dtype)
    power(special, special)
    assert special[0] == special[1] == 0
    assert math.isnan(special[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ordered_integers_sort_like_numbers(dtype):
    @njit
    def there_and_back(x, keys, back):
        for i in range(len(x)):
            keys[i] = as_ordered(x[i])
            back[i] = from_ordered(as_ordered(x[i]))

    x = np.array([-np.inf, -3e5, -1.5, -1e-30, -0.0, 0.0, 1e-30, 2.5, 7e8, np.inf, np.nan], dtype)
    keys, back = np.empty(len(x), np.int64), np.empty_like(x)
    there_and_back(x, keys, back)
    assert (np.diff(keys) > 0).all()
    np.testing.assert_array_equal(back, x)
