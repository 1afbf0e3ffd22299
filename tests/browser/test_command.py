"""`aaconv explore` as a command: it serves, ends when told to, and leaves nothing."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from aaconv.cli import main

from ..explain.networks import classifier_card, saved
from .conftest import free_port

pytest.importorskip("gradio")


def test_serves_until_interrupted_and_leaves_nothing(tmp_path):
    port, temporary = free_port(), tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "aaconv", "explore", "--port", str(port), "--checkpoint", "digits"]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        lines = iter(process.stdout.readline, "")
        assert f"http://127.0.0.1:{port}" in next(line for line in lines if "http" in line)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=20) as answer:
            assert b"aaconv explore" in answer.read()
        assert len(list(temporary.glob("aaconv-explore-*"))) == 1
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Traceback" not in said
    assert not list(temporary.glob("aaconv-explore-*"))


def test_bad_checkpoints_are_one_line(tmp_path, capsys):
    plain = saved(tmp_path / "plain.safetensors", classifier_card(model="resnet10s"))
    for path, message in ((plain, "has no attention layer"), (Path("gone.safetensors"), "no checkpoint file gone")):
        assert main(["explore", "--checkpoint", str(path)]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_a_port_in_use_is_one_line(capsys):
    import socket

    before = signal.getsignal(signal.SIGTERM)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["explore", "--port", str(taken.getsockname()[1]), "--checkpoint", "digits"]) == 2
    assert "port" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
