"""Commands one after the other in this process, as its environment makes them: ``python -m ... INPUTS OUT``.

The last line of the output is their exit codes, as JSON.
"""

import json
import os
import sys

from aaconv.cli import main

PICTURES = ("0", "1")


def commands(inputs, out):
    """Train, evaluate, predict, look, find boxes."""
    tiny = "--data.size 16 --batch_size 12 --epochs 1 --machine.accelerator cpu --model.name aa_resnet10xs_r25"
    pictures = [os.path.join(inputs, "classes", "left", f"{name}.png") for name in PICTURES]
    weights = os.path.join(out, "run", "model.safetensors")
    classes = os.path.join(inputs, "classes")
    train = ["train", "folder", "--data.path", classes, "--out", os.path.join(out, "run"), *tiny.split()]
    return {
        "train": train,
        "train, gone on": train,
        "eval": ["eval", weights, "--data", classes, "--json", os.path.join(out, "measured.json")],
        "predict": ["predict", "--checkpoint", weights, *pictures],
        "explain": ["explain", "--checkpoint", weights, "--out", os.path.join(out, "seen"), pictures[0]],
        "detect predict": [
            *("detect", "predict", "--checkpoint", os.path.join(inputs, "detector.safetensors")),
            *("--out", os.path.join(out, "boxes"), *pictures),
        ],
        "no such file": ["predict", "--checkpoint", weights, os.path.join(out, "none.png")],
    }


if __name__ == "__main__":
    codes = {name: main(words) for name, words in commands(*sys.argv[1:]).items()}
    print(json.dumps(codes))
