"""``aaconv train`` as several machines run it: two nodes that find each other by rendezvous."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node")
LIMIT = 240  # seconds


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A run of a few steps on a folder of two classes."""
    root = tmp_path_factory.mktemp("images")
    for label, name in enumerate(("left", "right")):
        (root / name).mkdir()
        for i in range(12):
            picture = np.random.default_rng(i).integers(0, 60, (16, 16), np.uint8)
            picture[:, 8 * label : 8 * label + 8] += 150
            Image.fromarray(picture).save(root / name / f"{i}.png")
    options = {"--data.path": root, "--data.size": 16, "--batch_size": 8, "--epochs": 2, "--machine.loggers": "[]"}
    options |= {"--model.name": "aa_resnet10xs_r25", "--machine.accelerator": "cpu"}
    return ["-m", "aaconv", "train", "folder", *(str(word) for pair in options.items() for word in pair)]


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    words = [str(word) for word in arguments]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.hard
def test_two_nodes_do_what_two_processes_of_one_do(command, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    meet = ("--nnodes", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", address, "--rdzv-id", "test")
    nodes = [start(*TORCHRUN, 1, *meet, *command, "--out", tmp_path / "nodes") for _ in range(2)]
    said = [node.communicate(timeout=LIMIT)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert sorted(text.count("checkpoint: ") for text in said) == [0, 1]  # one of them writes and speaks
    single = start(*TORCHRUN, 2, "--standalone", *command, "--out", tmp_path / "processes")
    text = single.communicate(timeout=LIMIT)[0]
    assert single.returncode == 0, text
    ours, theirs = (load_file(Path(tmp_path, name, "model.safetensors")) for name in ("nodes", "processes"))
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    assert "python -m aaconv train folder" in (tmp_path / "nodes" / "README.md").read_text()
