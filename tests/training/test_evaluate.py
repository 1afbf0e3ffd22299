"""Evaluation of checkpoints equals plain computation, and images that do not fit are refused."""

import json
import tarfile
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from aaconv.data.cifar import load_cifar
from aaconv.data.clutter import compose_clutter
from aaconv.data.digit_pairs import compose_pairs
from aaconv.data.images import ImageReadError, read_image
from aaconv.training.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from aaconv.training.evaluate import Evaluation, evaluate
from tests.data.cifar_archives import make_cifar
from tests.data.pictures import make_tar, pair
from tests.training.test_loaders import lay_shards

CLASSES = tuple("abcdefg")


@pytest.fixture
def checkpoint(tmp_path):
    """Checkpoints of untrained networks."""

    def checkpoint(classes=CLASSES, channels=3, edge=16, **others):
        card = ModelCard("resnet10xs", tuple(classes), channels, edge, (0.4,) * channels, (0.2,) * channels, **others)
        model = card.build()
        for module in model.modules():  # not as they start, so that evaluation mode shows
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
        save_checkpoint(tmp_path / "model.safetensors", model, card)
        return tmp_path / "model.safetensors"

    return checkpoint


@pytest.fixture
def folder(tmp_path):
    """Pictures of seven classes, two to four each, of several sizes."""
    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2 + label % 3):
            pixels = random.integers(0, 256, (20 + label, 24 + i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def directly(checkpoint, images, labels):
    """(images, accuracy, top-5, loss) of all images at once."""
    model, card = load_checkpoint(checkpoint)
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (card.mean, card.std))
    with torch.no_grad():
        logits = model((images / 255 - mean) / std)
    order = logits.argsort(dim=1, descending=True)
    hits = (order == labels[:, None]).float()
    loss = F.cross_entropy(logits, labels).item()
    return len(labels), hits[:, 0].mean().item(), hits[:, :5].sum(1).mean().item(), loss


def agrees(found, expected):
    got = (found.images, found.accuracy, found.top5, found.loss)
    return got == pytest.approx(expected, rel=1e-5)


def read(paths, channels=3, edge=16, crop_pct=1.0):
    """Pictures and the numbers of their folders."""
    names = sorted({path.parent.name for path in paths})
    images = torch.stack([read_image(path, channels, edge, crop_pct) for path in paths])
    return images, torch.tensor([names.index(path.parent.name) for path in paths])


@pytest.mark.parametrize(
    "data, classes, made",
    [
        ("digits", ("different", "same"), partial(compose_pairs, "test", 4000, seed=0)),
        ("clutter", "0123456789", partial(compose_clutter, "test", 4000, seed=0)),
    ],
)
def test_embedded_digits(checkpoint, data, classes, made):
    path = checkpoint(classes, 1, edge=20)
    found = evaluate(path, data, batch_size=999)
    split = made(edge=20)
    assert agrees(found, directly(path, split.images, split.labels))
    assert (found.checkpoint, found.data, found.skipped) == (str(path), data, 0)


@pytest.mark.parametrize("name, count", [("cifar10", 10), ("cifar100", 100)])
def test_cifar(checkpoint, tmp_path, monkeypatch, name, count):
    archive, archives = make_cifar(tmp_path, name, train=count, test=30)
    monkeypatch.setattr("aaconv.data.cifar.load_cifar", partial(load_cifar, archives=archives))
    data = load_cifar(name, archive, archives=archives)
    path = checkpoint(data.classes, 3, 32)
    expected = directly(path, data.val.images, data.val.labels)
    assert expected[0] == 30  # the test images
    assert agrees(evaluate(path, name, path=archive, batch_size=7), expected)
    with pytest.raises(ValueError, match=rf"--path must say where {name} lies; 'aaconv data get {name}' fetches it"):
        evaluate(path, name)
    with pytest.raises(FileNotFoundError, match="none"):
        evaluate(path, name, path=tmp_path / "none")


@pytest.mark.parametrize("channels, crop_pct", [(3, 1.0), (3, 0.75), (1, 0.875)])
def test_folder_as_the_card_says(checkpoint, folder, channels, crop_pct):
    path = checkpoint(channels=channels, crop_pct=crop_pct)
    expected = directly(path, *read(sorted(folder.rglob("*.png")), channels, crop_pct=crop_pct))
    for options in ({}, {"batch_size": 4}, {"batch_size": 4, "workers": 2}):
        found = evaluate(path, str(folder), **options)
        assert agrees(found, expected)
        assert found.images == 20


def test_val_part_of_a_folder(checkpoint, folder):
    for part in ("train", "val"):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
    for path in list(folder.glob("?/*.png")):
        path.rename(folder / ("val" if path.stem == "0" else "train") / path.parent.name / path.name)
    for name in CLASSES:
        (folder / name).rmdir()
    path = checkpoint()
    found = evaluate(path, str(folder))
    assert found.images == 7
    assert agrees(found, directly(path, *read(sorted((folder / "val").rglob("*.png")))))


@pytest.mark.parametrize("workers", [0, 2])
def test_shards(checkpoint, tmp_path, workers):
    pattern = lay_shards(tmp_path, (3, 5, 2), edge=24)
    path = checkpoint("0123456789", crop_pct=0.75)
    images, labels = [], []
    for name in sorted(tmp_path.glob("a-*.tar")):
        with tarfile.open(name) as tar:
            for member in tar.getmembers():
                content = tar.extractfile(member).read()
                if member.name.endswith(".png"):
                    (tmp_path / "one.png").write_bytes(content)
                    images.append(read_image(tmp_path / "one.png", 3, 16, 0.75))
                else:
                    labels.append(int(content))
    expected = directly(path, torch.stack(images), torch.tensor(labels))
    assert expected[0] == 10
    assert agrees(evaluate(path, pattern, batch_size=2, workers=workers), expected)


def test_grey_network_on_shards(checkpoint, tmp_path):
    pattern = lay_shards(tmp_path, (4,))
    assert evaluate(checkpoint("0123", 1), pattern).images == 4


@pytest.mark.parametrize(
    "classes, message",
    [
        ("abcdef", "must have the 6 classes of the checkpoint .*, got 7, among them 'g'"),
        ("abcdefgh", "must have the 8 classes of the checkpoint .*, got 7"),
        ("abcdefz", r"must have the 7 classes of the checkpoint \(a, b, c, \.\.\.\), got 7, among them 'g'"),
        ("bacdefg", "must have the 7 classes of the checkpoint .*, got 7"),
    ],
)
def test_other_classes_are_refused(checkpoint, folder, classes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(checkpoint(classes), str(folder))


def test_labels_of_shards_that_the_checkpoint_lacks_are_refused(checkpoint, tmp_path):
    pattern = lay_shards(tmp_path, (4,))
    with pytest.raises(ImageReadError, match=r"003\.cls: a label must be 0 to 2, got '3'"):
        evaluate(checkpoint("012"), pattern)


def spoil(folder):
    """A file that is no image, and one whose header alone is whole: of the 20 readable ones 18 are left."""
    (folder / "a" / "0.png").write_bytes(b"")
    whole = (folder / "c" / "1.png").read_bytes()
    (folder / "c" / "1.png").write_bytes(whole[: len(whole) // 2])


def test_broken_images_stop_it(checkpoint, folder):
    path = checkpoint()
    spoil(folder)
    with pytest.raises(ValueError, match=r"1 of 20 images cannot be read: .*a/0\.png.*skip"):
        evaluate(path, str(folder))
    (folder / "a" / "0.png").unlink()
    with pytest.raises(ImageReadError, match=r"c/1\.png"):
        evaluate(path, str(folder))


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_left_out_and_counted(checkpoint, folder, workers):
    """None stands in for another: every readable image counts once."""
    path = checkpoint()
    spoil(folder)
    paths = [path for path in sorted(folder.rglob("*.png")) if str(path)[-7:] not in ("a/0.png", "c/1.png")]
    found = evaluate(path, str(folder), on_broken="skip", batch_size=3, workers=workers)
    assert (found.images, found.skipped) == (18, 2)
    assert agrees(found, directly(path, *read(paths)))
    assert "on 18 images of" in str(found)
    assert str(found).endswith(", 2 unreadable ones left out")


@pytest.mark.filterwarnings("ignore:left out")
def test_nothing_but_broken_images(checkpoint, folder):
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"images.* can be read"):
        evaluate(checkpoint(), str(folder), on_broken="skip")


@pytest.mark.filterwarnings("ignore:left out")
def test_broken_images_of_shards(checkpoint, tmp_path):
    pattern = lay_shards(tmp_path, (4,))
    make_tar(tmp_path / "a-0.tar", pair("zzz", b"no image", 1), mode="a")
    path = checkpoint("0123")
    with pytest.raises(ImageReadError, match=r"zzz\.png"):
        evaluate(path, pattern)
    found = evaluate(path, pattern, on_broken="skip")
    assert found.images == 4


def test_refusals(checkpoint, folder, tmp_path):
    path = checkpoint()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got batch_size=0"):
        evaluate(path, str(folder), batch_size=0)
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        evaluate(tmp_path / "none.safetensors", str(folder))
    with pytest.raises(FileNotFoundError, match=r"no folder .*none"):
        evaluate(path, str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"no shard .*none\.tar"):
        evaluate(path, str(tmp_path / "none.tar"))
    with pytest.raises(ValueError, match="on_broken must be one of"):
        evaluate(path, str(folder), on_broken="ignore")


def test_figures_as_text_and_json(tmp_path):
    found = Evaluation("m.safetensors", "images", 12_345, 0, 0.98765, 0.999, 0.12345)
    assert str(found) == "accuracy 98.77%, top-5 99.90%, loss 0.1235 on 12,345 images of images"
    found.write(tmp_path / "deep" / "figures.json")
    assert json.loads((tmp_path / "deep" / "figures.json").read_text()) == {
        **{"checkpoint": "m.safetensors", "data": "images", "images": 12_345, "skipped": 0},
        **{"accuracy": 0.98765, "top5": 0.999, "loss": 0.12345},
    }
