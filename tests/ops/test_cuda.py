"""The Triton kernels in the interpreter and, where there is one, on a GPU; that they compile without one."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from aaconv.ops import cuda
from tests.ops.cuda_interpreted import SHAPES

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@needs_triton
@pytest.mark.parametrize(
    "interpret,dtypes", [("1", 2), pytest.param("0", 3, marks=needs_gpu)], ids=["interpreter", "gpu"]
)
def test_kernels(interpret, dtypes):
    """Runs ``cuda_interpreted.py``, whose cases of parity alone are shapes times dtypes."""
    cases = Path(__file__).with_name("cuda_interpreted.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(cases)]
    environment = {**os.environ, "TRITON_INTERPRET": interpret, "OMP_NUM_THREADS": "1"}
    root = cases.parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert passed, done.stdout
    assert int(passed[1]) > len(SHAPES) * dtypes, done.stdout


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_compile(dtype, capability, monkeypatch, tmp_path):
    """What the interpreter lets pass may not compile; the compiler needs no GPU. An RTX card has 99 KiB to share."""
    import triton
    from triton.backends.compiler import GPUTarget

    from aaconv.ops import cuda_kernels

    device = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
        get_current_device=lambda: capability,  # kernels are kept by the number of the device
        get_current_stream=lambda index: 0,
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", device)
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    compiled = {}

    class Compiler:
        """Takes the place of a kernel and compiles instead of launching."""

        def __init__(self, name):
            self.name, self.kernel = name, getattr(cuda_kernels, name)

        def __getitem__(self, programs):
            def launch(*arguments, **choices):
                named = dict(zip(self.kernel.arg_names, arguments, strict=False))
                config = cuda_kernels._fitting(self.kernel.configs, named, **choices)[0]
                done = self.kernel.fn.warmup(*arguments, grid=(1,), **choices, **config.all_kwargs())
                assert programs({**choices, **config.kwargs})[0] > 0
                compiled[self.name] = done

            return launch

    for name in ("forward", "backward_queries", "backward_keys"):
        monkeypatch.setattr(cuda_kernels, name, Compiler(name))
    shape = 1, 2, 40 * 40
    q, k, v, bias_h, bias_w = (torch.zeros(*shape, size, dtype=dtype) for size in (20, 20, 4, 40, 40))
    out, lse = cuda.forward(q, k, v, bias_h, bias_w, 1.0)
    cuda.backward(out, q, k, v, bias_h, bias_w, out, lse, 1.0)
    assert set(compiled) == {"forward", "backward_queries", "backward_keys"}
    for kernel in compiled.values():
        assert f"sm_{capability}" in kernel.asm["ptx"]
        assert kernel.asm["cubin"]
        assert kernel.metadata.shared <= 99 * 1024


def test_importing_does_not_import_triton():
    code = """
import sys
import torch
sys.modules["triton"] = None
from aaconv.ops import cuda
q = torch.zeros(1, 1, 1, 1)
print(cuda.unsupported_reason(q, q))
print(cuda.MISSING)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "it needs tensors on a CUDA device, got device=cpu",
        "Triton is not installed: pip install triton",
    ]
