"""A look is what prediction does, and knows where its picture lies in the image."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torchvision.transforms.v2.functional import pil_to_tensor

from aaconv.data.images import fit_image
from aaconv.explain.look import LEAST_SCORE, Network
from aaconv.training.checkpoint import ModelCard
from aaconv.training.predict import probabilities

from .networks import classifier_card, detector_card, image, network, saved


def test_classifier_sees_and_says_what_prediction_does():
    net = network(classifier_card(crop_pct=0.8))
    look = net.look(image())
    pixels = fit_image(image(), 3, 32, 0.8)
    assert torch.equal(look.picture, pixels)
    expected = probabilities(net.model, net.card, pixels[None])[0]
    assert [answer.label for answer in look.answers] == [net.card.classes[i] for i in expected.argsort(descending=True)]
    assert [answer.probability for answer in look.answers] == pytest.approx(sorted(expected.tolist(), reverse=True))
    assert look.layers == ("blocks.2.conv1.attention", "blocks.3.conv1.attention")
    assert look.size == (32, 32)


def test_points_of_the_image_land_in_the_picture():
    look = network(classifier_card(crop_pct=0.8)).look(image(60, 40))
    assert look.covers == (14, 4, 46, 36)  # the middle 32 of 40 pixels
    assert look.share_of(30, 20) == (0.5, 0.5)
    assert look.share_of(14, 20) == (0, 0.5)
    for x, y in [(13.9, 20), (46, 20), (30, 3), (30, 36), (float("nan"), 20)]:
        with pytest.raises(ValueError, match="query must lie in what net sees of the image, x from 14 to 46"):
            look.share_of(x, y)


def test_detector_shows_what_its_body_gets_with_boxes_on_it():
    net = network(detector_card())
    torch.nn.init.constant_(net.model.head.classification_head.cls_logits.bias, 1.0)  # something is found
    source = image(50, 40)
    look = net.look(source)
    scale = 64 / 50
    assert look.size == (64, 64)  # 51x64, padded to multiples of 32
    assert (look.picture[:, 51:].flatten(1).float().std(dim=1) < 1).all()  # padding
    resized = torch.nn.functional.interpolate(pil_to_tensor(source)[None].float(), size=(51, 64), mode="bilinear")
    assert (look.picture[:, :51].float() - resized[0]).abs().max() <= 1
    assert look.share_of(49.99, 39.99) == pytest.approx((1, 51 / 64), abs=1e-3)
    with torch.no_grad():
        found = net.model([pil_to_tensor(source) / 255])[0]
    assert len(look.answers) == 10
    for answer, box, score in zip(look.answers, found["boxes"], found["scores"], strict=False):
        assert answer.probability == pytest.approx(float(score))
        assert answer.probability >= LEAST_SCORE
        assert answer.box == pytest.approx((box * torch.tensor([scale, 51 / 40] * 2)).tolist(), rel=1e-4)
    assert net.evidence(look) is None


def test_threads_do_not_take_each_others_images():
    net = network()
    images = [image(seed=seed) for seed in range(8)]
    alone = [net.look(one).recording.inputs["blocks.3.conv1.attention"] for one in images]
    with ThreadPoolExecutor(8) as pool:
        looks = list(pool.map(net.look, images))
    for look, expected in zip(looks, alone, strict=True):
        assert [len(calls) for calls in look.recording.calls.values()] == [1, 1]
        assert torch.equal(look.recording.inputs["blocks.3.conv1.attention"], expected)


def test_layers_are_chosen_by_pattern():
    assert network(patterns=["*.3.*"]).look(image()).layers == ("blocks.3.conv1.attention",)
    with pytest.raises(ValueError, match=r"layer must fit one of blocks\.2.*, blocks\.3.*, got nothing\*"):
        network(patterns=["nothing*"])


def test_no_attention_no_look(tmp_path):
    path = saved(tmp_path / "plain.safetensors", classifier_card(model="resnet10s"))
    with pytest.raises(ValueError, match=r"plain \(resnet10s\) has no attention layer"):
        Network.load(path)


@pytest.mark.parametrize(
    "name, title", [("mine.safetensors", "mine"), ("model.safetensors", "run1"), ("best.safetensors", "run1")]
)
def test_titles(tmp_path, monkeypatch, name, title):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run1").mkdir()
    assert Network.load(saved(tmp_path / "run1" / name)).title == title
    monkeypatch.chdir(tmp_path / "run1")
    assert Network.load(name).title == title


def test_detectors_and_classifiers_load_alike(tmp_path):
    assert Network.load(saved(tmp_path / "d.safetensors", detector_card())).finds_boxes
    assert not Network.load(saved(tmp_path / "c.safetensors")).finds_boxes


def test_grey_images_for_grey_networks():
    card = ModelCard("aa_resnet10s", ("a", "b"), 1, 32, (0.5,), (0.5,))
    assert network(card).look(image(mode="RGBA")).picture.shape == (1, 32, 32)
