"""What cannot fit is refused before anything is allocated, with what it would take and what would do."""

import resource

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from aaconv import AttentionAugmentedConv2d, attention_maps_2d, relative_attention_2d
from aaconv.ops import decomposed, memory, reference
from aaconv.ops.memory import UNASKED, expect_memory, free_memory

CPU = torch.device("cpu")


def huge(edge, heads=8, channels=20, device="cpu"):
    """[1, N, L, K] of a map of edge x edge that occupies a number."""
    return torch.zeros(1, 1, 1, 1, device=device).expand(1, heads, edge * edge, channels)


@pytest.fixture
def free(monkeypatch, tmp_path):
    """Say what a machine and a container tell of their memory, in bytes."""
    monkeypatch.setattr(memory, "CONTAINERS", [[tmp_path / name for name in ("max", "current", "stat")]])
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")

    def tell(machine, most=None, taken=0, cached=0, swap=0):
        (tmp_path / "meminfo").write_text(
            f"MemTotal: 99999999999 kB\nMemAvailable: {machine // 1024} kB\nSwapFree: {swap // 1024} kB\n"
        )
        (tmp_path / "max").write_text("max\n" if most is None else f"{most}\n")
        (tmp_path / "current").write_text(f"{taken}\n")
        (tmp_path / "stat").write_text(f"anon 5\ninactive_file {cached}\n")

    return tell


def test_the_least_of_what_is_free_counts(free):
    free(8 * UNASKED)
    assert free_memory(CPU) == 8 * UNASKED
    free(8 * UNASKED, swap=2 * UNASKED)
    assert free_memory(CPU) == 10 * UNASKED
    free(8 * UNASKED, most=6 * UNASKED, taken=3 * UNASKED, cached=UNASKED)
    assert free_memory(CPU) == 4 * UNASKED
    free(8 * UNASKED, most=UNASKED, taken=2 * UNASKED)
    assert free_memory(CPU) == 0


def test_address_space_counts(free):
    free(1000 * UNASKED)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (500 * UNASKED, before[1]))
    try:
        found = free_memory(CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert 0 < found < 500 * UNASKED


def test_without_what_linux_tells(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "CONTAINERS", ())
    assert free_memory(CPU) > UNASKED
    monkeypatch.delattr("os.sysconf")
    assert free_memory(CPU) is None
    expect_memory(2**80, huge(1), "work", "do less")


def test_little_is_never_looked_up(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda _: pytest.fail("looked up"))
    expect_memory(UNASKED, huge(1), "work", "do less")


def test_message(free):
    free(3 * UNASKED)
    expect_memory(3 * UNASKED, huge(1), "work", "do less")
    wanted = r"^work would take about 4 GiB of memory beside its inputs, cpu has 3\.0 GiB to give; do less$"
    with pytest.raises(ValueError, match=wanted):
        expect_memory(4 * UNASKED, huge(1), "work", "do less")


def test_maps_of_too_many_queries(free):
    """A hundred thousand cells: some queries are answered, all of them refused; nothing is allocated for it."""
    free(20 * UNASKED)
    q = huge(320)
    every = torch.arange(320 * 320)
    with pytest.raises(
        ValueError, match=r"maps of 102400 queries on a map of \(320, 320\) would take about [\d,]+ GiB .*ask for fewer"
    ):
        attention_maps_2d(q, q, None, None, grid=(320, 320), queries=every)
    assert attention_maps_2d(q, q, None, None, grid=(320, 320), queries=[5]).shape == (1, 8, 1, 320, 320)


def test_maps_of_a_layer(free):
    free(2 * UNASKED)
    layer = AttentionAugmentedConv2d(2, 4, 3, key_channels=4, value_channels=4, num_heads=2, grid=(8, 8))
    x = torch.zeros(1, 2, 300, 300)
    with pytest.raises(ValueError, match=r"maps of 90000 queries on a map of \(300, 300\)"):
        layer.attention.maps(x, torch.arange(90_000))
    assert layer.attention.maps(x, [0]).shape == (1, 2, 1, 300, 300)


def test_inference_needs_no_terms_and_training_does(free):
    free(20 * UNASKED)
    q = huge(900)
    with pytest.raises(ValueError, match=r"attention over a map of \(900, 900\) \(impl='cpu'\) would take about"):
        relative_attention_2d(q, q, q, None, None, grid=(900, 900), impl="cpu")
    with torch.no_grad():
        assert decomposed.extra_bytes(q, q, (900, 900)) < UNASKED


@pytest.mark.parametrize("impl", ["auto", "reference", "folded"])
def test_tensors_without_data_take_none(free, impl):
    free(0)
    q = huge(900, device="meta")
    assert relative_attention_2d(q, q, q, None, None, grid=(900, 900), impl=impl).shape == q.shape
    with FakeTensorMode():
        q = torch.empty(1, 8, 900 * 900, 20)
        assert relative_attention_2d(q, q, q, None, None, grid=(900, 900), impl=impl).shape == q.shape


def test_estimate_of_maps_covers_what_is_allocated():
    q = torch.zeros(1, 2, 1024, 8)
    table = torch.zeros(63, 8)
    queries = torch.arange(256)
    with torch.profiler.profile(profile_memory=True) as profile:
        attention_maps_2d(q, q, table, table, grid=(32, 32), queries=queries)
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    estimate = reference.weights_bytes(q, 256)
    assert most <= estimate <= 2 * most
