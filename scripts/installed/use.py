"""Uses an installed aaconv; run by check_release.py in clean environments, from a folder with nothing in it.

Run: python -I use.py VERSION import|layer|everything
"""

import subprocess
import sys
from pathlib import Path

NEED_EXTRAS = (  # command lines and the package that the line of each names
    (["train", "digits"], "yaml"),
    (["predict", "--checkpoint", "digits", "a.png"], "tqdm"),
    (["augment", "resnet18"], "timm"),
    (["explore"], "gradio"),
    (["tables"], "timm"),
)


def imported(version):
    """The package is the installed one, not a source tree's."""
    import aaconv

    assert aaconv.__version__ == version, aaconv.__version__
    assert Path(aaconv.__file__).is_relative_to(sys.prefix), aaconv.__file__
    assert command("--version") == (0, f"aaconv {version}\n", "")


def command(*arguments):
    """Exit code of the installed command, and what it printed and said."""
    program = Path(sys.executable).with_name("aaconv")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def layer(version):
    """What the layer alone needs is there; commands that need more say so in a line."""
    imported(version)
    import torch

    import aaconv

    layer = aaconv.AttentionAugmentedConv2d(8, 16, 3, stride=2, key_channels=8, value_channels=8, num_heads=2)
    out = layer(torch.randn(2, 8, 9, 12))
    out.square().sum().backward()
    assert out.shape == (2, 16, 5, 6)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert "aa_resnet10s" in aaconv.list_models()
    assert aaconv.create_model("aa_resnet10s", num_classes=3)(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    assert command("models", "aa_resnet10s") == (0, "aa_resnet10s\n", "")
    for arguments, package in NEED_EXTRAS:
        code, printed, said = command(*arguments)
        lines = said.splitlines()
        assert (code, printed, len(lines)) == (2, "", 1), (arguments, code, printed, said)
        assert package in lines[0], lines[0]
        assert "pip install 'aaconv[" in lines[0], lines[0]


def everything(version):
    """The paper's networks, a packaged checkpoint, the tables."""
    imported(version)
    import torch
    from PIL import Image

    import aaconv

    logits = aaconv.create_model("aa_resnet50", num_classes=7, img_size=64)(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    Image.new("L", (32, 32)).save("black.png")
    code, printed, said = command("predict", "--checkpoint", "digits", "black.png")
    assert code == 0, said
    assert printed.startswith("black.png: "), printed
    code, printed, said = command("tables")
    assert code == 0, said
    assert "AA-ResNet-50" in printed or "aa_resnet50" in printed, printed
    assert command("recipes", "digits")[0] == 0


if __name__ == "__main__":
    {"import": imported, "layer": layer, "everything": everything}[sys.argv[2]](sys.argv[1])
