"""Many threads at once: every answer is the one that a single thread gets, and nothing is left or grows."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from aaconv import AttentionAugmentedConv2d
from aaconv.explain.shelf import Session, Shelf
from aaconv.training.predict import predict_files
from tests.data.pictures import noise
from tests.explain.networks import image, saved

THREADS, IMAGES, FIRST = 8, 1000, 0.2
AT_ONCE = 5  # images that a call predicts
GROWTH = 32 * 2**20  # bytes that the second to the last fifth of the work may add


def layer_and_inputs(count):
    layer = AttentionAugmentedConv2d(6, 12, 3, key_channels=8, value_channels=8, num_heads=2, grid=(13, 17)).eval()
    return layer, [torch.randn(3, 6, 13 - i % 3, 17) for i in range(count)]


@torch.no_grad()
def test_a_layer_that_threads_share():
    layer, inputs = layer_and_inputs(40)
    expected = [layer(x) for x in inputs]
    with ThreadPoolExecutor(THREADS) as pool:
        got = list(pool.map(torch.inference_mode()(layer), inputs))
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_gradients_in_threads():
    layer, inputs = layer_and_inputs(16)
    weights = list(layer.parameters())

    def gradients(x):
        return torch.autograd.grad(layer(x).square().sum(), weights)

    expected = [gradients(x) for x in inputs]
    with ThreadPoolExecutor(THREADS) as pool:
        got = list(pool.map(gradients, inputs))
    for one, other in zip(got, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


FIRST_USE = """
import threading, torch, aaconv
torch.set_num_threads(2)
layer = aaconv.AttentionAugmentedConv2d(6, 12, 3, key_channels=8, value_channels=8, num_heads=2, grid=(40, 40)).eval()
x, got, barrier = torch.randn(2, 6, 40, 40), {}, threading.Barrier(8)
def work(number):
    barrier.wait()
    y = layer(x)
    got[number] = (y.detach(), torch.autograd.grad(y.square().sum(), list(layer.parameters())))
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
usual = layer(x)
grads = torch.autograd.grad(usual.square().sum(), list(layer.parameters()))
assert len(got) == 8
for y, own in got.values():
    assert torch.equal(y, usual)
    for a, b in zip(own, grads): torch.testing.assert_close(a, b)
"""


@pytest.mark.hard
def test_the_first_use_may_be_in_threads(tmp_path):
    """Also where nothing is compiled yet."""
    fresh = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for _ in range(3):  # the first compiles, others read what is kept
        done = subprocess.run([sys.executable, "-c", FIRST_USE], env=fresh, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.hard
def test_damaged_compiled_code_and_folders_without_room(tmp_path):
    fresh = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def use(**others):
        done = subprocess.run(
            [sys.executable, "-c", FIRST_USE], env={**fresh, **others}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr[-2000:]) == (0, "")

    use()
    kept = sorted(tmp_path.rglob("*.nb[ic]"))
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    use()
    (tmp_path / "file").touch()
    use(NUMBA_CACHE_DIR=str(tmp_path / "file"))


class Features(Dataset):
    """What a layer makes of inputs, in readers' processes."""

    def __init__(self, layer, inputs):
        self.layer, self.inputs = layer, inputs

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        with torch.no_grad():
            return self.layer(self.inputs[index])


def test_processes_forked_after_use():
    layer, _ = layer_and_inputs(0)
    inputs = [torch.randn(2, 6, 13, 17) for _ in range(8)]
    with torch.no_grad():
        expected = [layer(x) for x in inputs]  # starts what threads there are
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(torch.no_grad()(layer), inputs))
    got = DataLoader(Features(layer, inputs), batch_size=None, num_workers=2, multiprocessing_context="fork")
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def memory():
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(work, expected):
    """Let threads do ``work`` on all numbers; check answers, memory, temp files and threads."""
    before, left = set(os.listdir(tempfile.gettempdir())), threading.active_count()
    with ThreadPoolExecutor(THREADS) as pool:
        begin = int(FIRST * len(expected))
        first = list(pool.map(work, range(begin)))
        early = memory()
        rest = list(pool.map(work, range(begin, len(expected))))
        late = memory()
    print(f"{early / 2**20:.0f} MiB after {FIRST:.0%}, {late / 2**20:.0f} MiB after all")
    assert first + rest == expected
    assert late - early < GROWTH
    assert threading.active_count() == left
    new = set(os.listdir(tempfile.gettempdir())) - before
    assert not {name for name in new if "aaconv" in name or "gradio" in name}


@pytest.mark.hard
def test_thousand_images_on_the_shelf(tmp_path):
    shelf = Shelf([saved(tmp_path / "first.safetensors")])
    sessions = threading.local()

    def answer(number):
        held = sessions.__dict__.setdefault("held", Session())
        path = tmp_path / f"{number}.png"
        buffer = io.BytesIO()
        image(seed=number).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
        shelf.take(path, held)
        scene = json.loads(shelf.look(["first"], held))
        point = [(number % 7 + 0.5) / 7, (number % 5 + 0.5) / 5]
        found = shelf.maps({"token": scene["token"], "point": point, "part": "both"})
        assert not path.exists()
        return hashlib.sha256(json.dumps([scene["scenes"], found]).encode()).hexdigest()

    expected = [answer(number) for number in range(IMAGES)]
    soak(answer, expected)
    assert len(shelf._looks) <= THREADS + 1


@pytest.mark.hard
def test_thousand_images_predicted(tmp_path):
    checkpoint = saved(tmp_path / "first.safetensors")
    for number in range(IMAGES):
        (tmp_path / f"{number}.png").write_bytes(noise(number))

    def answer(number):
        paths = [tmp_path / f"{index}.png" for index in range(AT_ONCE * number, AT_ONCE * (number + 1))]
        return predict_files(checkpoint, paths)

    expected = [answer(number) for number in range(IMAGES // AT_ONCE)]
    assert len({one.probability for some in expected for one in some}) > IMAGES // 2
    soak(answer, expected)
