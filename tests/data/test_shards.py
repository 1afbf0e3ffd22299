"""Streams of shards: every image its turn, going on exactly where an epoch was left, and what is broken."""

from itertools import chain, islice

import numpy as np
import pytest
import torch
from PIL import Image

from aaconv.data import images as images_module
from aaconv.data.images import ImageReadError
from aaconv.data.shards import ShardStream, load_shards
from aaconv.data.splits import Draw
from aaconv.data.views import View
from tests.data.pictures import KINDS, encoded, flat, make_tar, noise, pair, saved, seen

SHARDS, EACH = 6, 5


@pytest.fixture
def folder(tmp_path):
    """Shards whose images are of one level each, which is their number; labels go round three classes."""
    for shard in range(SHARDS):
        numbers = range(shard * EACH, (shard + 1) * EACH)
        members = [member for number in numbers for member in pair(number, flat(number), number % 3)]
        make_tar(tmp_path / f"s-{shard}.tar", members)
    return tmp_path


def shards(folder, count=SHARDS, on_broken="fail", **options):
    """A stream of the first ``count``; images keep their one level whatever the view."""
    urls = tuple(str(folder / f"s-{i}.tar") for i in range(count))
    return ShardStream(urls, count * EACH, 3, View(4, 3), on_broken, **{"buffer": 4, **options})


def numbers(samples):
    """Which images came."""
    got = []
    for image, label in samples:
        assert image.shape == (3, 4, 4)
        number = int(image[0, 0, 0])
        assert (image == number).all()
        assert label == number % 3
        got.append(number)
    return got


def taken(stream, count, *, draw=Draw(0, 0), part=0, parts=1, start=0):  # noqa: B008
    return numbers(islice(stream.stream(draw, part=part, parts=parts, start=start), count))


@pytest.mark.parametrize("parts", [1, 2, 4, 6, 9])
def test_once_gives_every_image_once(folder, parts):
    got = [numbers(shards(folder).once(part, parts)) for part in range(parts)]
    assert sorted(chain(*got)) == list(range(SHARDS * EACH))
    assert all(part == sorted(part) for part in got)


def test_once_is_evaluations_view(tmp_path):
    make_tar(tmp_path / "s-0.tar", pair("a", noise(0), 1))
    stream = ShardStream((str(tmp_path / "s-0.tar"),), 0, 3, View(8, crop_pct=0.8))
    ((image, label),) = stream.once(0, 1)
    (tmp_path / "a.png").write_bytes(noise(0))
    assert torch.equal(image, stream.view.evaluation(Image.open(tmp_path / "a.png")))
    assert label == 1


@pytest.mark.parametrize("parts", [1, 3, 6])
@pytest.mark.parametrize("buffer", [1, 4, 1000])
def test_parts_share_the_first_pass_out_and_go_on_without_end(folder, parts, buffer):
    stream, each = shards(folder, buffer=buffer), SHARDS * EACH // parts
    got = [taken(stream, 3 * each, part=part, parts=parts) for part in range(parts)]
    assert sorted(number for part in got for number in part[:each]) == list(range(SHARDS * EACH))
    for part in got:
        passes = [part[i : i + each] for i in range(0, 3 * each, each)]
        assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])  # its own shards again
        assert passes[0] != sorted(passes[0])
        assert len({tuple(one) for one in passes}) > 1


def test_epochs_and_seeds_deal_and_shuffle_anew(folder):
    stream = shards(folder)
    got = [taken(stream, 10, draw=draw, parts=3) for draw in (Draw(0, 0), Draw(0, 1), Draw(1, 0))]
    assert len({tuple(sorted(part)) for part in got}) == 3
    assert taken(stream, 10, draw=Draw(0, 1), parts=3) == got[1]


def rough(folder, on_broken="fail"):
    """Shards of noise, every other one broken where these are skipped, with all that is random in training."""
    for shard in range(2):
        images = [noise(10 * shard + i) for i in range(8)]
        if on_broken == "skip":
            images[1::2] = [image[:200] for image in images[1::2]]
        members = [member for i, image in enumerate(images) for member in pair(i, image, i % 3)]
        make_tar(folder / f"s-{shard}.tar", members)
    urls = tuple(str(folder / f"s-{i}.tar") for i in range(2))
    return ShardStream(urls, 16, 3, View(8, rand_augment=3), on_broken, buffer=3)


@pytest.mark.parametrize("part, parts", [(0, 1), (1, 2)])
@pytest.mark.parametrize("on_broken", ["fail", "skip"])
@pytest.mark.filterwarnings("ignore:left out")
def test_a_start_in_the_middle_goes_on_exactly(tmp_path, part, parts, on_broken):
    stream = rough(tmp_path, on_broken)

    def come(start, count):
        return list(islice(stream.stream(Draw(2, 1), part=part, parts=parts, start=start), count))

    whole = come(0, 20)  # into the second pass
    torch.rand(3)
    for start in (1, 7, 13):
        for (image, label), (other, same) in zip(whole[start:], come(start, 20 - start), strict=True):
            assert torch.equal(image, other)
            assert label == same


def test_what_was_given_is_not_decoded_again(folder, monkeypatch):
    decoded = []
    view = View.training
    monkeypatch.setattr(View, "training", lambda *arguments: decoded.append(1) or view(*arguments))
    taken(shards(folder), 3, start=20)
    assert len(decoded) == 3


def test_views_differ_by_epoch_and_pass_but_not_by_the_global_numbers(tmp_path):
    make_tar(tmp_path / "s.tar", pair("a", noise(0, 60, 60), 0))
    stream = ShardStream((str(tmp_path / "s.tar"),), 1, 2, View(8))
    state = torch.get_rng_state()
    images = [image for epoch in (0, 1) for image, _ in islice(stream.stream(Draw(0, epoch), part=0, parts=1), 3)]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(torch.stack(images).flatten(1).unique(dim=0)) == 6


def test_more_readers_than_shards_are_refused(folder):
    with pytest.raises(ValueError, match=r"7 readers \(devices x workers\) need as many shards, got 6; use fewer"):
        taken(shards(folder), 1, part=6, parts=7)


@pytest.mark.parametrize("content", [b"", b"text", noise(0, 90, 90)[:2000]])
def test_broken_images_fail_or_are_skipped(folder, content):
    members = [*pair("a", flat(0), 0), *pair("bad", content, 1), *pair("b", flat(1), 1)]
    path = make_tar(folder / "s-0.tar", members)
    with pytest.raises(ImageReadError, match=rf"^{path}:bad\.png: [^\n]+$"):
        numbers(shards(folder, 1).once(0, 1))
    with pytest.raises(ImageReadError, match=rf"^{path}:bad\.png: "):
        taken(shards(folder, 1), 3)
    with pytest.warns(RuntimeWarning, match=rf"left out: {path}:bad\.png: "):
        assert numbers(shards(folder, 1, "skip").once(0, 1)) == [0, 1]
    with pytest.warns(RuntimeWarning, match="left out"):
        assert sorted(taken(shards(folder, 1, "skip"), 4)) == [0, 0, 1, 1]


def test_images_above_the_limit_fail(folder, monkeypatch):
    monkeypatch.setattr(images_module, "MAX_PIXELS", 1000)
    make_tar(folder / "s-0.tar", pair("big", saved(Image.new("1", (101, 10))), 0))
    with pytest.raises(ImageReadError, match=r"s-0\.tar:big\.png: 101x10 pixels, more than 1,000"):
        taken(shards(folder, 1), 1)


@pytest.mark.filterwarnings("ignore:left out")
def test_broken_images_alone_come_to_an_end(folder):
    make_tar(folder / "s-0.tar", [*pair("a", b"", 0), *pair("b", b"", 1)])
    with pytest.raises(ImageReadError, match=r"none of 6 images one after another can be read, the last .*\.png"):
        taken(shards(folder, 1, "skip"), 1)
    assert numbers(shards(folder, 1, "skip").once(0, 1)) == []


@pytest.mark.parametrize("on_broken", ["fail", "skip"])
def test_labels_and_shards_that_cannot_be_read_are_never_skipped(folder, on_broken):
    whole = (folder / "s-1.tar").read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "cannot be read"),
        (b"text", "cannot be read"),
        (make_tar(folder / "x.tar", pair("a", flat(0), 3)).read_bytes(), r"a\.cls: a label must be 0 to 2, got '3'"),
    ):
        (folder / "s-1.tar").write_bytes(content)
        for samples in (
            shards(folder, 2, on_broken).once(0, 1),
            shards(folder, 2, on_broken).stream(Draw(0, 0), part=0, parts=1),
        ):
            with pytest.raises(ImageReadError, match=rf"s-1\.tar.*{message}"):
                list(islice(samples, 3 * EACH))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_it_is_seen(tmp_path, kind):
    path = make_tar(tmp_path / "s.tar", pair("a", encoded(kind), 0, "jpg"))
    ((image, _),) = ShardStream((str(path),), 0, 1, View(16, crop_pct=1.0)).once(0, 1)
    got = image[:, 4::8, 4::8].permute(1, 2, 0).numpy().astype(int)  # the middle of each quarter
    assert np.abs(got - seen(kind)).max() <= (30 if kind == "palette" else 6)


def test_loading(folder):
    train, val = str(folder / "s-{0..3}.tar"), str(folder / "s-{4..5}.tar")
    data = load_shards(train, val, samples=None, classes=3, size=4, crop="resize", flip=False)
    assert (data.train.samples, len(data.train.urls), len(data.val.urls)) == (20, 4, 2)
    assert (data.classes, data.channels, data.size) == (("0", "1", "2"), 3, (4, 4))
    assert (data.train.view.crop, data.train.view.flip) == ("resize", False)
    assert numbers(data.val.once(0, 1)) == list(range(20, 30))
    assert sorted(numbers(islice(data.train.stream(Draw(0, 0), part=0, parts=1), 20))) == list(range(20))
    assert load_shards(train, val, samples=7, classes=3, size=4).train.samples == 7


def test_fingerprints_change_with_names_sizes_and_samples(folder):
    def fingerprint(train="s-{0..3}.tar", samples=20):
        return load_shards(
            str(folder / train), str(folder / "s-5.tar"), samples=samples, classes=3, size=4
        ).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    others = {fingerprint("s-{0..2}.tar"), fingerprint(samples=19)}
    make_tar(folder / "s-5.tar", [*pair("a", flat(0), 0)] * 20)
    assert len({first, fingerprint(), *others}) == 4


def test_remote_shards_are_read_over_http_and_need_a_count(server, folder):
    server.files = {f"/s-{i}.tar": (folder / f"s-{i}.tar").read_bytes() for i in range(SHARDS)}
    server.cuts = [2000, 3000, 0]
    base = server.url.removesuffix("file.tar.gz")
    train, val = f"{base}s-{{0..3}}.tar", f"{base}s-{{4..5}}.tar"
    with pytest.raises(ValueError, match=r"data.samples must say how many images remote shards hold.*--data\.samples"):
        load_shards(train, val, samples=None, classes=3, size=4)
    data = load_shards(train, val, samples=20, classes=3, size=4)
    assert server.asked == []
    assert sorted(numbers(islice(data.train.stream(Draw(0, 0), part=0, parts=1), 20))) == list(range(20))
    assert server.asked[1] == "bytes=2000-"
    assert numbers(data.val.once(0, 1)) == list(range(20, 30))
    assert data.fingerprint() == load_shards(train, val, samples=20, classes=3, size=4).fingerprint()


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"classes": None}, ValueError, r"data.classes must say how many classes .* got none; give --data\.classes"),
        ({"classes": 1}, ValueError, "data.classes must be at least 2, got data.classes=1"),
        ({"samples": 0}, ValueError, "data.samples must be at least 1, got data.samples=0"),
        ({"on_broken": "go"}, ValueError, r"data.on_broken must be one of \['fail', 'skip'\], got 'go'"),
        ({"train": "s-{5..7}.tar"}, FileNotFoundError, r"no shard \S*s-6\.tar, nor 1 others"),
        ({"val": "none.tar"}, FileNotFoundError, r"no shard \S*none\.tar$"),
        ({"train": "bad.tar"}, ImageReadError, r"shard \S*bad\.tar cannot be read: "),
    ],
)
def test_bad_arguments(folder, options, error, message):
    (folder / "bad.tar").write_bytes(b"text")
    paths = {part: str(folder / options.pop(part, "s-0.tar")) for part in ("train", "val")}
    with pytest.raises(error, match=message):
        load_shards(**paths, **{"samples": None, "classes": 3, "size": 4, **options})
