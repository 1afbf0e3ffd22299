"""Predictions are the network's probabilities, and intervals hold what they promise."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from aaconv.data.images import ImageReadError, read_image
from aaconv.training.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from aaconv.training.intervals import paired_bootstrap
from aaconv.training.predict import predict_files, probabilities

CARD = ModelCard("aa_resnet10s", ("cat", "dog"), 3, 32, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", CARD.build(), CARD)
    return tmp_path / "a.safetensors"


def test_predictions(checkpoint, tmp_path):
    paths = []
    for i in range(5):
        paths.append(tmp_path / f"{i}.png")
        Image.effect_noise((30 + 5 * i, 40), 90).save(paths[-1])
    got = predict_files(checkpoint, paths, batch_size=2)
    assert [p.path for p in got] == [str(p) for p in paths]
    model, card = load_checkpoint(checkpoint)
    for prediction, path in zip(got, paths, strict=True):
        chances = torch.softmax(model(card.normalize(read_image(path, 3, 32)[None])), dim=1)[0]
        assert prediction.label == CARD.classes[int(chances.argmax())]
        assert prediction.probability == pytest.approx(chances.max().item(), abs=1e-5)


def test_images_are_cut_as_the_card_says(tmp_path):
    card = replace(CARD, crop_pct=0.6)
    save_checkpoint(tmp_path / "a.safetensors", card.build(), card)
    Image.effect_noise((40, 40), 90).save(tmp_path / "a.png")
    model, _ = load_checkpoint(tmp_path / "a.safetensors")
    (got,) = predict_files(tmp_path / "a.safetensors", [tmp_path / "a.png"])
    cut, whole = (read_image(tmp_path / "a.png", 3, 32, share)[None] for share in (0.6, 1.0))
    assert got.probability == pytest.approx(probabilities(model, card, cut).max().item(), abs=1e-6)
    assert got.probability != pytest.approx(probabilities(model, card, whole).max().item(), abs=1e-6)


def test_probabilities_do_not_depend_on_the_batch(checkpoint):
    images = torch.randint(0, 255, (7, 3, 32, 32), dtype=torch.uint8)
    model = CARD.build().eval()
    whole = probabilities(model, CARD, images)
    torch.testing.assert_close(probabilities(model, CARD, images, batch_size=3), whole)
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(7))


def test_unreadable_image(checkpoint, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"x\.png"):
        predict_files(checkpoint, [tmp_path / "x.png"])
    with pytest.raises(FileNotFoundError, match=r"y\.png"):
        predict_files(checkpoint, [tmp_path / "y.png"])


def test_interval_of_independent_items_is_the_binomial_one():
    """Items that share no part: the bootstrap over parts is about as wide as the normal approximation."""
    random = torch.Generator().manual_seed(0)
    correct = torch.rand(1500, generator=random) < 0.8
    parts = torch.arange(3000).view(1500, 2)
    low, high = paired_bootstrap(correct, parts)
    mean = correct.float().mean().item()
    deviation = (mean * (1 - mean) / 1500) ** 0.5
    assert low < mean < high
    # an item's weight is a product of two counts of variance 1 each: three times the variance of a plain bootstrap
    assert (high - low) / (2 * 1.96 * deviation) == pytest.approx(3**0.5, rel=0.15)


def test_interval_covers_the_truth_when_parts_are_shared():
    """Whether an item is right depends on its parts: an interval that took items as independent would be too narrow."""
    random = torch.Generator().manual_seed(1)
    hits, runs = 0, 60
    for _ in range(runs):
        skill = torch.rand(60, generator=random)
        parts = torch.randint(60, (2000, 2), generator=random)
        correct = torch.rand(2000, generator=random) < skill[parts].mean(dim=1)
        low, high = paired_bootstrap(correct, parts, draws=300)
        hits += low <= 0.5 <= high
    assert hits / runs > 0.88
