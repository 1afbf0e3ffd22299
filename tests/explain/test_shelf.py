"""Sessions see what is theirs; uploads are read, judged and deleted."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from aaconv import attention_maps_2d
from aaconv.explain.shelf import IMAGE_BYTES, KEPT_EDGE, Session, Shelf
from aaconv.training.checkpoint import save_checkpoint

from .networks import classifier_card, detector_card, image, saved
from .test_packing import unpacked


@pytest.fixture
def shelf(tmp_path):
    return Shelf([saved(tmp_path / "first.safetensors"), saved(tmp_path / "boxes.safetensors", detector_card())])


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def upload(tmp_path, content, name="up.png"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def shown(shelf, session, *titles):
    return json.loads(shelf.look(titles or ["first"], session))


def test_maps_are_the_attention(shelf, tmp_path):
    session = Session()
    shelf.take(upload(tmp_path, encoded(image())), session)
    scene = shown(shelf, session)
    found = shelf.maps({"token": scene["token"], "point": [0.3, 0.6], "part": "both"})["maps"][0]
    network = shelf.network("first", session)
    look = network.look(image())
    assert [layer["name"] for layer in scene["scenes"][0]["networks"][0]["layers"]] == list(look.layers)
    for name, one in zip(look.layers, found, strict=True):
        with torch.no_grad():
            p = look.recording.layers[name].project(look.recording.inputs[name])
            expected = attention_maps_2d(p.q, p.k, p.rel_h, p.rel_w, grid=p.grid, queries=[4 * 8 + 2])[0, :, 0]
        assert (unpacked(one, expected.shape) - expected).abs().max() <= expected.max() / 500


def test_two_networks_side_by_side(shelf, tmp_path):
    session = Session()
    shelf.take(upload(tmp_path, encoded(image())), session)
    scene = shown(shelf, session, "first", "boxes")
    assert [one["title"] for one in scene["scenes"][0]["networks"]] == ["first", "boxes"]
    assert scene["scenes"][0]["name"] == "up"
    found = shelf.maps({"token": scene["token"], "point": [0.5, 0.5], "part": "content"})["maps"]
    assert [len(layers) for layers in found] == [2, 3]


def test_sessions_are_apart(shelf, tmp_path):
    one, other = Session(), Session()
    shelf.take(upload(tmp_path, encoded(image(seed=1))), one)
    with pytest.raises(ValueError, match="choose an image first"):
        shown(shelf, other)
    shelf.take(upload(tmp_path, encoded(image(seed=2))), other)
    first, second = shown(shelf, one), shown(shelf, other)
    assert first["token"] != second["token"]
    assert first["scenes"][0]["networks"][0]["picture"] != second["scenes"][0]["networks"][0]["picture"]
    asked = {"point": [0.5, 0.5], "part": "both"}
    assert shelf.maps({**asked, "token": first["token"]}) != shelf.maps({**asked, "token": second["token"]})
    title = shelf.add(saved(tmp_path / "mine.safetensors"), one)
    assert title in shelf.titles(one)
    assert title not in shelf.titles(other)
    with pytest.raises(ValueError, match="no network 'mine'; there are first, boxes"):
        shelf.network("mine", other)


def test_what_is_left_is_forgotten(shelf, tmp_path):
    session = Session()
    shelf.take(upload(tmp_path, encoded(image())), session)
    first, second = shown(shelf, session), shown(shelf, session)
    asked = {"point": [0.5, 0.5], "part": "both"}
    assert "not kept any more" in shelf.maps({**asked, "token": first["token"]})["error"]
    assert "maps" in shelf.maps({**asked, "token": second["token"]})
    shelf.forget(session)
    shelf.forget(None)
    assert "not kept any more" in shelf.maps({**asked, "token": second["token"]})["error"]


@pytest.mark.parametrize(
    "asked",
    [
        None,
        [],
        "x",
        {},
        {"token": 3, "point": [0, 0], "part": "both"},
        {"token": [], "point": [0, 0], "part": "both"},
        {"point": [0.5], "part": "both"},
        {"point": [0.5, "y"], "part": "both"},
        {"point": None, "part": "both"},
        {"point": [0.5, float("nan")], "part": "both"},
        {"point": [0.5, 1.5], "part": "both"},
        {"point": [-1e300, 0], "part": "both"},
        {"point": [0.5, 0.5], "part": "all"},
        {"point": [0.5, 0.5], "part": []},
        {"point": [0.5, 0.5]},
    ],
)
def test_odd_questions_are_answered_with_an_error(shelf, tmp_path, asked):
    session = Session()
    shelf.take(upload(tmp_path, encoded(image())), session)
    token = shown(shelf, session)["token"]
    if isinstance(asked, dict) and asked and "token" not in asked:
        asked = {**asked, "token": token}
    assert list(shelf.maps(asked)) == ["error"]


def bomb():
    """A PNG of 10,000 x 10,000 pixels in 100 kB."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = zlib.compress(bytes(10_000 * 10_001), 9)
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda: b"no image", "not an image that can be read"),
        (lambda: b"", "not an image that can be read"),
        (lambda: encoded(image(400, 400))[:20_000], "truncated|broken|not enough"),
        (bomb, "10000x10000 pixels, more than 64,000,000"),
        (lambda: SVG, "not an image that can be read"),
        (lambda: bytes(IMAGE_BYTES + 1), "has more than 20 MB, make it smaller"),
    ],
    ids=["text", "empty", "cut", "bomb", "svg", "large"],
)
def test_hostile_images_are_refused_and_deleted(shelf, tmp_path, content, message):
    session = Session()
    path = upload(tmp_path, content())
    with pytest.raises(ValueError, match=message):
        shelf.take(path, session)
    assert not path.exists()
    assert session.image is None


def turned():
    exif = Image.Exif()
    exif[274] = 6  # the camera was held on its side
    return encoded(image(60, 40), "JPEG", exif=exif)


@pytest.mark.parametrize(
    "content, size, mode",
    [
        (turned, (40, 60), "RGB"),
        (lambda: encoded(image(mode="CMYK"), "JPEG"), (60, 40), "RGB"),
        (lambda: encoded(image(mode="RGBA")), (60, 40), "RGB"),
        (lambda: encoded(image(mode="P")), (60, 40), "RGB"),
        (lambda: encoded(image(), save_all=True, append_images=[image(seed=1)]), (60, 40), "RGB"),
        (lambda: encoded(Image.fromarray(np.full((40, 60), 40_000, np.uint16))), (60, 40), "L"),
        (lambda: encoded(image(mode="1")), (60, 40), "L"),
        (lambda: encoded(image(2 * KEPT_EDGE, 300)), (KEPT_EDGE, 150), "RGB"),
        (lambda: encoded(image(1, 1)), (1, 1), "RGB"),
    ],
    ids=["turned", "cmyk", "transparent", "palette", "animated", "16 bit", "bits", "wide", "pixel"],
)
def test_odd_images_are_shown(shelf, tmp_path, content, size, mode):
    session = Session()
    path = upload(tmp_path, content())
    shelf.take(path, session)
    assert not path.exists()
    assert (session.image.size, session.image.mode) == (size, mode)
    assert shown(shelf, session, "first", "boxes")["scenes"]


def test_sixteen_bits_are_scaled_not_clipped(shelf, tmp_path):
    session = Session()
    shelf.take(upload(tmp_path, encoded(Image.fromarray(np.full((4, 6), 40_000, np.uint16)))), session)
    assert session.image.getextrema() == (40_000 // 257,) * 2


def test_text_in_images_stays_text(shelf, tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "</script><script>alert(1)</script>")
    path = upload(tmp_path, encoded(image(), pnginfo=info), "<b>'\".png")
    session = Session()
    shelf.take(path, session)
    text = shelf.look(["first"], session)
    assert "<" not in text
    assert json.loads(text)["scenes"][0]["name"] == "<b>'\""


def saved_as(path, **changes):
    card = classifier_card()
    save_checkpoint(path, card.build(), classifier_card(**changes))


def forget_how_to_count(model):
    next(model.parameters()).data.fill_(float("nan"))


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda path: torch.save({"a": torch.zeros(1)}, path), "is no safetensors checkpoint"),
        (lambda path: path.write_text("no weights"), "is no safetensors checkpoint"),
        (lambda path: saved(path, classifier_card(model="resnet10s")), "has no attention layer"),
        (lambda path: saved(path, change=forget_how_to_count), "not finite"),
        (lambda path: saved_as(path, model="local-dir:/etc"), "no model 'local-dir:/etc'"),
        (lambda path: saved_as(path, options={"pretrained": True}), r"weights of other files \(pretrained\)"),
        (lambda path: saved_as(path, options={"pretrained_cfg": {"file": "/x"}}), r"of other files \(pretrained_cfg\)"),
        (lambda path: saved_as(path, options={"checkpoint_path": "/x"}), r"of other files \(checkpoint_path\)"),
        (lambda path: saved_as(path, options={"wings": 2}), "cannot be built"),
        (lambda path: saved_as(path, edge=10**9), "edge do not fit"),
        (lambda path: saved_as(path, classes=("a",)), "does not fit its network"),
    ],
)
def test_hostile_checkpoints_are_refused_and_deleted(shelf, tmp_path, write, message):
    session, path = Session(), tmp_path / "up.safetensors"
    write(path)
    with pytest.raises(ValueError, match=message) as caught:
        shelf.add(path, session)
    assert str(tmp_path) not in str(caught.value)  # where uploads lie is nobody's business
    assert not path.exists()
    assert shelf.titles(session) == ["first", "boxes"]


def test_an_uploaded_network_of_a_known_name_gets_another(shelf, tmp_path):
    session = Session()
    (tmp_path / "up").mkdir()
    title = shelf.add(saved(tmp_path / "up" / "first.safetensors"), session)
    assert title == "first'"
    assert shelf.network(title, session) is not shelf.network("first", session)


def test_few_networks_stay_in_memory(tmp_path):
    files = [saved(tmp_path / f"n{index}.safetensors") for index in range(6)]
    shelf, session = Shelf(files), Session()
    first = shelf.network("n0", session)
    for index in range(1, 4):
        shelf.network(f"n{index}", session)
    assert shelf.network("n0", session) is first
    shelf.network("n4", session)  # n1 was used longest ago
    assert shelf.network("n0", session) is first
    assert len(shelf._loaded) == 4
    assert "n1" not in shelf._loaded
