"""What is not installed: the layer works without it, and commands say in a line what brings it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_imports import HEAVY, modules_after

ROOT = Path(__file__).parents[2]
OPTIONAL = ("numba", "triton", "timm", "torchvision", "safetensors", "PIL", "sklearn")
LAYER = """
import torch, aaconv
torch.manual_seed(0)
layer = aaconv.AttentionAugmentedConv2d(4, 8, 3, key_channels=8, value_channels=4, num_heads=2, grid=(5, 6))
x = torch.randn(2, 4, 5, 6, requires_grad=True)
y = layer(x)
y.square().sum().backward()
q, k, v = torch.randn(3, 1, 2, 30, 4).unbind()
tables = torch.randn(9, 4), torch.randn(11, 4)
given = aaconv.relative_attention_2d(q, k, v, *tables, grid=(5, 6))
torch.testing.assert_close(given, aaconv.relative_attention_2d(q, k, v, *tables, grid=(5, 6), impl="reference"))
checks = {"y": y.square().sum().item(), "grad": x.grad.square().sum().item()}
"""
WITHOUT_NUMBA = """
try:
    aaconv.relative_attention_2d(q, k, v, *tables, grid=(5, 6), impl="cpu")
except ValueError as error:
    assert str(error) == "impl='cpu' cannot run: Numba is not installed: pip install numba; impl='auto' takes what can"
else:
    raise AssertionError
assert layer.attention.impl == "auto"
"""
NAMES = "\nassert 'aa_resnet10s' in aaconv.list_models()\naaconv.create_model('aa_resnet10s')\n"


@pytest.fixture(scope="module")
def usual():
    """What the layer gives with all packages."""
    return sums(LAYER)


def sums(code, blocked=()):
    """The sums that ``code`` leaves in ``checks``."""
    block = f"import sys\nfor name in {list(blocked)!r}: sys.modules[name] = None\n"
    program = block + code + "\nprint(*checks.values())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(value) for value in done.stdout.split()]


@pytest.mark.hard
def test_the_layer_gives_the_same_without_any(usual):
    assert sums(LAYER + WITHOUT_NUMBA + NAMES, OPTIONAL) == pytest.approx(usual, rel=1e-5)


@pytest.mark.hard
@pytest.mark.parametrize("missing", OPTIONAL)
def test_the_layer_gives_the_same_without_one(usual, missing):
    code = LAYER + (WITHOUT_NUMBA if missing == "numba" else "") + NAMES
    assert sums(code, [missing]) == pytest.approx(usual, rel=1e-5)


def test_importing_loads_nothing_heavy():
    own = {name for name in modules_after("import aaconv") if name.startswith("aaconv")}
    assert own == {"aaconv"}
    assert not modules_after("import aaconv") & {"torch", "numpy", *HEAVY}
    with_layer = modules_after("import aaconv; aaconv.AttentionAugmentedConv2d")
    assert "torch" in with_layer
    slow = {"torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes", *HEAVY}
    assert not with_layer & slow - {"tqdm"}  # torch itself imports that


def test_the_base_install_is_torch_numpy_and_numba():
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'"([a-z]+)', re.search(r"^dependencies = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)[1])
    assert listed == ["torch", "numpy", "numba"]


MISSING = {
    "train digits": ("yaml", "train"),
    "predict --checkpoint digits a.png": ("safetensors", "train"),
    "explain": ("matplotlib", "train"),
    "explore": ("gradio", "app"),
    "demo": ("pytorch_lightning", "train"),
    "augment resnet18": ("timm", "train"),
    "augment torchvision:resnet18": ("torchvision", "train"),
    "data get cifar10": ("tqdm", "train"),
}


@pytest.mark.hard
@pytest.mark.parametrize("words", MISSING)
def test_commands_say_what_brings_a_missing_package(words, tmp_path):
    package, extra = MISSING[words]
    program = (
        f"import sys; sys.modules[{package!r}] = None; from aaconv.cli import main; sys.exit(main({words.split()}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("aaconv: ")]
    assert lines == [f"aaconv: this command needs the package {package!r}: pip install 'aaconv[{extra}]'"]
    assert "Traceback" not in done.stderr
