"""`aaconv explain` writes pictures and a page that holds the attention; bad input is told before any work."""

import json
import re

import pytest
import torch
from PIL import Image

from aaconv.cli import main
from aaconv.explain import explain, page, pictures
from aaconv.explain.explain import explain_files
from aaconv.explain.page import PAGE_BYTES, page_edge

from .networks import classifier_card, detector_card, image, network, saved
from .test_packing import unpacked


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("explain")


@pytest.fixture(scope="module")
def checkpoint(folder):
    return saved(folder / "net.safetensors")


@pytest.fixture(scope="module")
def files(folder):
    paths = [folder / "one.png", folder / "two.png", folder / "하나 <b>.png"]
    for seed, path in enumerate(paths):
        image(seed=seed).save(path)
    return paths


def scenes_of(path):
    text = path.read_text(encoding="utf-8")
    inside = re.search(r'<script type="application/json" id="scenes">(.*?)</script>', text, re.DOTALL)
    return json.loads(inside[1])


@pytest.fixture(scope="module")
def report(folder, checkpoint, files):
    detector = saved(folder / "boxes.safetensors", detector_card())
    return explain_files([checkpoint, detector], files, folder / "out", queries=[(30, 20), (15, 8)])


def test_page_holds_every_map(report, files):
    scenes = scenes_of(report)
    assert [scene["name"] for scene in scenes] == ["one", "two", "하나 <b>"]
    net = network()
    for scene, path in zip(scenes, files, strict=True):
        assert [one["title"] for one in scene["networks"]] == ["net", "boxes"]
        look = net.look(Image.open(path))
        for layer in scene["networks"][0]["layers"]:
            maps = look.recording.maps(layer["name"], range(64))[0]
            error = (unpacked(layer, (4, 64, 8, 8)) - maps).abs().amax(dim=(-2, -1))
            assert (error <= maps.amax(dim=(-2, -1)) / 500).all()
        (fixed,) = scene["networks"][0]["fixed"]
        evidence = net.evidence(look)
        assert fixed["name"] == f"evidence for {look.answers[0].label} (Grad-CAM)"
        assert (unpacked(fixed, (8, 8)) - evidence).abs().max() <= evidence.max() / 500
        assert not scene["networks"][1]["fixed"]


def test_page_needs_nothing_from_outside(report):
    text = report.read_text(encoding="utf-8")
    assert "<b>" not in text.split('id="scenes">')[1].split("</script>")[0]
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "http" not in re.sub(r"data:[^\"]*", "", text).replace("http-equiv", "")
    assert report.stat().st_size < 10_000_000


def test_pictures_of_every_image_and_network(report):
    names = sorted(str(path.relative_to(report.parent)) for path in report.parent.rglob("*.png"))
    stems = ["one", "two", "하나__b_"]
    expected = [f"net/{stem}-{kind}.png" for stem in stems for kind in ("from-1", "from-2", "points", "activation")]
    expected += [f"boxes/{stem}-{kind}.png" for stem in stems for kind in ("from-1", "from-2", "points")]
    layers = {"net": ["blocks.2", "blocks.3"], "boxes": [f"backbone.body.layer{i}.0" for i in (2, 3, 4)]}
    expected += [f"{net}/positions-{name}.conv1.attention.png" for net, blocks in layers.items() for name in blocks]
    expected += ["net/heads.png", "boxes/heads.png", "net/contributions.png"]
    assert names == sorted(expected)
    for path in report.parent.rglob("*.png"):
        assert min(Image.open(path).size) > 100


def test_layers_and_part_are_chosen(folder, checkpoint, files, monkeypatch):
    drawn = []
    monkeypatch.setattr(explain, "plot_layers", lambda *given: drawn.append(given) or pictures.plot_layers(*given))
    out = explain_files([checkpoint], files[:1], folder / "part", layers=["*.3.*"], part="position")
    (scene,) = scenes_of(out)
    (layer,) = scene["networks"][0]["layers"]
    assert layer["name"] == "blocks.3.conv1.attention"
    maps = network().look(image()).recording.maps(layer["name"], range(64), "position")[0]
    assert (unpacked(layer, (4, 64, 8, 8)) - maps).abs().max() <= maps.max() / 500
    ((picture, shown, point),) = drawn
    assert list(shown) == [layer["name"]]
    assert point == (16, 16)
    assert torch.equal(shown[layer["name"]], maps[:, 4 * 8 + 4])
    assert picture.shape == (3, 32, 32)
    assert "of position alone" in out.read_text(encoding="utf-8")


def test_maps_are_coarsened_to_fit(monkeypatch):
    look = network(detector_card(192)).look(image(60, 40))
    assert page_edge([[look]]) == 32
    monkeypatch.setattr(page, "PAGE_BYTES", page.REST + 120_000)
    edge = page_edge([[look]])
    assert 4 <= edge < 12
    with pytest.raises(ValueError, match="images must be fewer for one page of 1 MB, got 40"):
        page_edge([[look]] * 40)


def test_a_coarse_page_says_so_and_stays_small(folder, monkeypatch):
    path = saved(folder / "large.safetensors", detector_card(192))
    image(600, 400).save(folder / "photo.png")
    monkeypatch.setattr(page, "PAGE_BYTES", page.REST + 130_000)
    out = explain_files([path], [folder / "photo.png"], folder / "coarse", layers=["*layer2*"])
    text = out.read_text(encoding="utf-8")
    assert re.search(r"Coarsened to fit into the page: backbone\.body\.layer2\S+ \(8x12 kept as \dx\d\)", text)
    assert out.stat().st_size < page.PAGE_BYTES < PAGE_BYTES


def test_samples_when_there_are_no_images(folder):
    path = saved(folder / "two.safetensors", classifier_card(channels=1, mean=(0,), std=(1,), data="digits"))
    names = [scene["name"] for scene in scenes_of(explain_files([path], [], folder / "samples"))]
    assert names[:2] == ["canvas 1, different", "canvas 2, same"]
    assert len(names) == 8


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["gone.png"], "no image file gone.png"),
        (["broken.png"], "broken.png: not an image that can be read"),
        (["one.png", "--query", "90,3"], "query must lie in what net sees of the image, x from 10 to 50"),
        (["one.png", "--query", "nan,3"], "query must lie in"),
        (["one.png", "--query", "9"], "must be two numbers X,Y, got '9'"),
        (["one.png", "--layer", "no*"], "layer must fit one of blocks.2.conv1.attention"),
        (["one.png", "--part", "some"], "invalid choice: 'some'"),
        (["one.png", "--checkpoint", "gone.safetensors"], "no checkpoint file gone.safetensors"),
        (["one.png", "--checkpoint", "sine.safetensors", "--part", "position"], "part must be"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    folder, files, checkpoint, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(folder)
    (folder / "broken.png").write_bytes(b"no image")
    saved(folder / "sine.safetensors", classifier_card(options={"position": "sine"}))
    given = arguments if "--checkpoint" in arguments else [*arguments, "--checkpoint", "net.safetensors"]
    try:
        code = main(["explain", *given, "--out", "never"])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert not list(folder.glob("never/**/*.png"))


def test_command(folder, files, checkpoint, capsys):
    out = folder / "command"
    assert main(["explain", str(files[0]), "--checkpoint", str(checkpoint), "--query", "20,10", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out / 'report.html'}\n"
    assert (out / "net" / "one-from-1.png").is_file()
