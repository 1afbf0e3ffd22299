"""Folders import downwards only, and the light parts stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "aaconv"
# Each room and the rooms it may import from, beside itself; a new one must be placed here.
ALLOWED = {
    "__init__": {"ops", "nn", "surgery", "models"},
    "_checks": set(),
    "_errors": set(),
    "_files": set(),
    "_signals": set(),
    "ops": {"_checks"},
    "nn": {"_checks", "ops"},
    "_weights": {"_checks", "nn"},
    "adapters": {"_checks", "ops", "nn"},
    "foreign": {"_checks", "nn"},
    "surgery": {"_checks", "nn"},
    "models": {"_checks", "ops", "nn", "surgery"},
    "paper": set(),
    "tables": {"_checks", "models", "paper"},
    "data": {"_checks", "_files"},
    "recipes": set(),
    "zoo": set(),
    "training": {"__init__", "_checks", "_errors", "_files", "_weights", "models", "data", "zoo"},
    "detection": {"_checks", "_errors", "_files", "models", "data", "training"},
    "explain": {"_checks", "_files", "_signals", "ops", "nn", "models", "data", "training", "detection"},
    "export": {"_checks", "_errors", "_files", "training"},
    "hub": {"__init__", "_files", "_weights", "models", "nn", "training"},
    "reproduction": {"_checks", "_errors", "_files", "_signals", "paper", "training", "detection"},
    "demo": {"__init__", "models", "data", "training", "explain"},
    "__main__": {"cli"},
    "cli": {
        "__init__",
        "_errors",
        "_files",
        "tables",
        "demo",
        "models",
        "data",
        "training",
        "detection",
        "explain",
        "export",
        "reproduction",
        "zoo",
    },
}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(module):
    """ "aaconv.ops.maps" -> "ops", "aaconv" -> "__init__"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            inner = [f"{module}.{name.name}" for name in node.names]
            yield from (full if (ROOT.parent / full.replace(".", "/")).is_dir() else module for full in inner)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    rooms = {room_of(name) for name in imported(path) if name.split(".")[0] == "aaconv"} - {own}
    assert rooms <= ALLOWED[own], f"{path.name} may not import {sorted(rooms - ALLOWED[own])}"


def test_files_stay_small():
    sizes = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: lines for name, lines in sizes.items() if lines > 300}


def modules_after(code, blocked=()):
    """Names of the modules that a fresh process holds after ``code``, with ``blocked`` packages made missing."""
    block = f"import sys\nfor name in {list(blocked)!r}: sys.modules[name] = None\n"
    dump = "\nimport sys\nprint(*[name for name, module in sys.modules.items() if module is not None])"
    done = subprocess.run([sys.executable, "-c", block + code + dump], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-2].split())


HEAVY = ("timm", "torchvision", "pytorch_lightning", "matplotlib", "sklearn", "PIL", "numba", "safetensors", "tqdm")


def test_the_layer_needs_torch_alone():
    code = """
import torch, aaconv
layer = aaconv.AttentionAugmentedConv2d(4, 8, 3, key_channels=4, value_channels=4, num_heads=2)
layer(torch.randn(1, 4, 5, 6)).sum().backward()
aaconv.create_model("aa_resnet10s", num_classes=2)(torch.randn(1, 3, 32, 32))
"""
    assert "torch" in modules_after(code, blocked=HEAVY)


def test_command_line_answers_without_torch():
    code = """
from aaconv.cli import main
try:
    main(["train", "--help"])
except SystemExit as done:
    assert done.code == 0
"""
    assert not modules_after(code) & {"torch", "numpy", *HEAVY}
