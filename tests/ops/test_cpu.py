"""The Numba kernels: where they are safe, what they leave alone, and their parts. Parity is in the shared tests."""

import math
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numba import njit
from torch.utils.flop_counter import FlopCounterMode

from aaconv.ops import cpu, cpu_kernels, relative_attention_2d, threads
from aaconv.ops.cpu_code import LANES
from aaconv.ops.cpu_vectors import weigh
from aaconv.ops.decomposed import decomposed_attention, decomposed_attention_backward, relative_attention
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


@pytest.mark.parametrize("grid", [(2, 300), (1, 257), (3, 256), (40, 40), (70, 3), (129, 2), (2, 128)], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_maps_of_many_tiles(grid, count, poisoned_empty):
    torch.set_num_threads(count)
    tensors = inputs((1, 1, grid, 5, 3), torch.float64)
    inferred = via("cpu")(*(t.detach() for t in tensors), grid=grid)
    torch.testing.assert_close(inferred, via("reference")(*tensors, grid=grid))
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


@pytest.fixture(params=["team of torch", "pool"])
def workers(request, monkeypatch):
    """Both ways to run side by side."""
    if request.param == "pool":
        monkeypatch.setattr(threads, "_team_of_torch", lambda: None)
    elif threads._team_of_torch() is None:
        pytest.skip("torch does not run on GNU OpenMP here")
    return request.param


@pytest.mark.parametrize("counts", [(1, 2, 5, 1)])
def test_follows_the_number_of_threads(workers, counts):
    tensors = inputs(LARGE, torch.float64)
    wanted = run(via("reference"), tensors, LARGE[2])
    for count in counts:
        torch.set_num_threads(count)
        for a, b in zip(run(via("cpu"), tensors, LARGE[2]), wanted, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shares_cover_the_range_and_run_side_by_side(workers, count):
    torch.set_num_threads(count)
    together, seen, ran_in = threading.Barrier(count), [], set()

    def work(start, stop):
        if threading.get_ident() not in ran_in:
            ran_in.add(threading.get_ident())
            together.wait(timeout=30)  # for ever, unless as many threads as asked for have begun
        seen.append((start, stop))

    threads.run_shares(work, 103, 20)
    assert len(ran_in) == count
    assert sorted(seen) == [(103 * i // 20, 103 * (i + 1) // 20) for i in range(20)]


def test_an_error_of_a_share_is_raised_and_threads_stay_usable(workers):
    torch.set_num_threads(2)

    def fail(start, stop):
        raise ZeroDivisionError(f"share {start}")

    with pytest.raises(ZeroDivisionError, match="share"):
        threads.run_shares(fail, 8, 4)
    done = []
    threads.run_shares(lambda start, stop: done.append(start), 8, 4)
    assert sorted(done) == [0, 2, 4, 6]


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
assert not threads._forked
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
def test_powers_are_exact_to_a_few_roundings(dtype, bits):
    @njit
    def weights(x, gradients):
        for at in range(0, len(x), LANES):
            weigh(x, gradients, at, x.dtype.type(1), x.dtype.type(0), x.dtype.type(0), x.dtype.type(0))

    x = np.concatenate([np.linspace(-120, 0, 20_001), -np.logspace(-12, 2, 1999)]).astype(dtype)
    got = x.copy()
    weights(got, np.ones_like(x))
    wanted = np.exp2(x.astype(np.longdouble))
    assert float(np.abs(got / wanted - 1).max()) < 4 * 2.0**-bits
    special = np.full(LANES, -np.inf, dtype)
    special[1:3] = -1e30, np.nan
    weights(special, np.ones_like(special))
    assert (special[[0, 1, 3]] < 1e-30).all()
    assert math.isnan(special[2])


@pytest.mark.parametrize("late", [30.0, 100.0, 1e3, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_keys_that_win_late(late, dtype):
    """The kernel takes its first shift from the first keys; those that overflow it then are computed again.

    Query 3 attends to two late keys, the second 1 ahead of the first, which only weights that overflow would not tell.
    """
    tensors = inputs((1, 1, (5, 8), 4, 3), dtype, positions=False)
    with torch.no_grad():
        query = tensors[0][0, 0, 3]
        for place, ahead in ((37, 0.0), (38, 2.0)):  # the scale is 1/2
            tensors[1][0, 0, place] = (late + ahead) * query / query.square().sum()
    high = [t if t is None else t.detach().double() for t in tensors]
    wanted = via("reference")(*high, grid=(5, 8))
    for given in (tensors, [t if t is None else t.detach() for t in tensors]):  # with gradients, and without
        got = via("cpu")(*given, grid=(5, 8)).double()
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [0.0, -0.5, -40.0])
def test_any_finite_scale(scale):
    tensors = [t.detach() for t in inputs((1, 2, (5, 8), 4, 3), torch.float64)]
    low = [t.float().requires_grad_() for t in tensors]
    high = [t.requires_grad_() for t in tensors]
    got, wanted = (
        run(lambda *t, grid, impl=impl: relative_attention_2d(*t, grid=grid, scale=scale, impl=impl), given, (5, 8))
        for impl, given in (("cpu", low), ("reference", high))
    )
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("place", [0, 17, 39])
def test_nan_is_never_hidden(which, place):
    tensors = [t.detach() for t in inputs((1, 1, (5, 8), 4, 3))]
    rows = tensors[which].flatten(0, -2)
    rows[place % len(rows)] = math.nan
    got, wanted = (via(impl)(*tensors, grid=(5, 8)).isnan() for impl in ("cpu", "reference"))
    assert wanted.any()
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("mapped", [(0, 0, 0, None, None), (0, None, 1, 0, 0)], ids=str)
def test_inference_under_vmap(mapped):
    grid, many = (3, 5), []
    singles = [[t.detach() for t in inputs((2, 2, grid, 4, 3), torch.float64, seed)] for seed in range(3)]
    for place, dim in enumerate(mapped):
        parts = [single[place] for single in singles]
        many.append(parts[0] if dim is None else torch.stack(parts, dim))
    got = torch.vmap(lambda *t: via("cpu")(*t, grid=grid), mapped)(*many)
    for index, single in enumerate(singles):
        tensors = [singles[0][place] if dim is None else single[place] for place, dim in enumerate(mapped)]
        torch.testing.assert_close(got[index], via("reference")(*tensors, grid=grid))


@pytest.mark.parametrize("dim", [0, 2, 3])
def test_operator_under_vmap_over_any_dimension(dim):
    random = torch.Generator().manual_seed(0)
    shapes = [(3, 2, 1, 6, channels) for channels in (4, 4, 5, 2, 3)]  # three calls: q, k, v, bias_h, bias_w
    stacked = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]
    moved = [t.movedim(0, dim) for t in stacked]
    out, lse = torch.vmap(lambda *t: decomposed_attention(*t, 0.5), dim)(*moved)
    for index in range(3):
        torch.testing.assert_close((out[index], lse[index]), decomposed_attention(*(t[index] for t in stacked), 0.5))


def test_inference_operator_is_well_registered():
    tensors = [t.detach() for t in inputs((2, 2, (3, 4), 5, 3), torch.float64)]
    for tables in (tensors[3:], (None, None)):
        torch.library.opcheck(relative_attention, (*tensors[:3], *tables, 3, 4, 0.5))


def test_flops_of_inference_count_the_terms_too():
    tensors = [t.detach() for t in inputs((2, 3, (4, 5), 6, 7))]
    with FlopCounterMode(display=False) as training:
        via("cpu")(tensors[0].requires_grad_(), *tensors[1:], grid=(4, 5))
    with FlopCounterMode(display=False) as inference, torch.no_grad():
        via("cpu")(*tensors, grid=(4, 5))
    assert inference.get_total_flops() == training.get_total_flops() == 2 * 2 * 3 * 20 * (20 * 13 + 6 * 9)


@pytest.mark.parametrize("compiled", [False, True])
def test_operators_follow_autocast(compiled):
    arguments = terms((1, 2, (3, 4), 5, 3), torch.float32)
    low = [t.detach().bfloat16().requires_grad_() for t in arguments[:3]]

    def attend(*arguments):
        return decomposed_attention(*arguments)[0]

    tables = torch.randn(5, 5), torch.randn(7, 5)
    with torch.autocast("cpu", torch.bfloat16):
        got = (torch.compile(attend, fullgraph=True, backend="aot_eager") if compiled else attend)(*arguments)
        inferred = relative_attention(*(t.detach() for t in arguments[:3]), *tables, 3, 4, 0.5)
    wanted = attend(*low, *arguments[3:])
    assert got.dtype == inferred.dtype == torch.bfloat16
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    torch.testing.assert_close(inferred, relative_attention(*(t.detach() for t in low), *tables, 3, 4, 0.5))
    grads = torch.autograd.grad(got.float().sum(), arguments[0])
    torch.testing.assert_close(grads[0], torch.autograd.grad(wanted.float().sum(), low[0])[0].float())
