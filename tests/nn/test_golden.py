"""The layer against values computed with the paper's own listing: the output and every gradient."""

from pathlib import Path

import numpy as np
import pytest
import torch

from aaconv import AttentionAugmentedConv2d
from tests.ops.cases import IMPLS

CASES = sorted((Path(__file__).parents[1] / "golden").glob("*.npz"))
TOLERANCE = 1e-4


def load(path):
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    sizes = {name.removeprefix("meta_"): int(value) for name, value in arrays.items() if name.startswith("meta_")}
    return arrays, sizes


def state_of(arrays, sizes, prefix=""):
    """The arrays under our parameter names; ``prefix`` "grad_" gives the gradients."""

    def joined(kind):
        return torch.cat([arrays[f"{prefix}{part}_{kind}"] for part in ("query", "key", "value")])

    state = {"attention.qkv.weight": joined("weight"), "attention.qkv.bias": joined("bias")}
    for ours, theirs in (("conv", "conv"), ("attention.out", "out")):
        state |= {f"{ours}.{kind}": arrays[f"{prefix}{theirs}_{kind}"] for kind in ("weight", "bias")}
    if sizes["relative"]:
        state |= {f"attention.position.{axis}": arrays[f"{prefix}r_{axis}"] for axis in ("height", "width")}
    return state


def build(sizes, impl):
    return AttentionAugmentedConv2d(
        sizes["in_channels"],
        sizes["out_channels"],
        sizes["kernel_size"],
        padding=sizes["kernel_size"] // 2,
        key_channels=sizes["dk"],
        value_channels=sizes["dv"],
        num_heads=sizes["num_heads"],
        position="relative" if sizes["relative"] else "none",
        grid=(sizes["height"], sizes["width"]),
        impl=impl,
    )


def test_the_cases_are_there():
    assert len(CASES) == 6


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("impl", IMPLS)
def test_golden(impl, path):
    arrays, sizes = load(path)
    layer = build(sizes, impl)
    layer.load_state_dict(state_of(arrays, sizes))
    x = arrays["x"].requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, arrays["y"], rtol=0, atol=TOLERANCE)
    y.backward(arrays["grad_y"])
    torch.testing.assert_close(x.grad, arrays["grad_x"], rtol=0, atol=TOLERANCE)
    wanted = state_of(arrays, sizes, "grad_")
    got = {name: parameter.grad for name, parameter in layer.named_parameters()}
    assert got.keys() == wanted.keys()
    for name, grad in got.items():
        torch.testing.assert_close(grad, wanted[name], rtol=0, atol=TOLERANCE, msg=lambda text, n=name: f"{n}: {text}")
