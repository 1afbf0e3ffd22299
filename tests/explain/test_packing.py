"""What a page gets is the attention, to a byte's precision."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from aaconv.explain import packing

from .networks import classifier_card, detector_card, exact, image, network

LAYER = "blocks.3.conv1.attention"


def unpacked(packed, shape):
    """Weights as the viewer reads them."""
    maps = np.frombuffer(base64.b64decode(packed["maps"]), np.uint8).reshape(shape)
    peaks = np.frombuffer(base64.b64decode(packed["peaks"]), "<f4").reshape(shape[:-2])
    return torch.from_numpy(maps / 255.0 * peaks[..., None, None])


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1), (4, 1, 1)])
def test_bytes_and_peaks_give_weights_back(shape):
    maps = torch.rand(shape, dtype=torch.float64)
    packed = packing.pack(maps)
    error = (unpacked(packed, shape) - maps).abs().amax(dim=(-2, -1))
    assert (error <= maps.amax(dim=(-2, -1)) / 510 + 1e-7).all()


def test_nothing_at_all_stays_nothing():
    assert not unpacked(packing.pack(torch.zeros(2, 3, 3)), (2, 3, 3)).any()


@pytest.mark.parametrize("point, cell", [((0.0, 0.0), 0), ((0.99, 0.0), 7), ((0.3, 0.6), 4 * 8 + 2), ((1.0, 1.0), 63)])
def test_maps_from_a_point(point, cell):
    look = network().look(image())
    packed = packing.pack_from(look, point)
    for layer, one in zip(look.layers, packed, strict=True):
        expected = exact(look, layer, cell)
        assert (unpacked(one, expected.shape) - expected).abs().max() <= expected.max() / 510 + 1e-7


def test_parts_of_the_logits():
    look = network().look(image())
    for part in ("content", "position"):
        expected = look.recording.maps(LAYER, [9], part)[0, :, 0]
        got = unpacked(packing.pack_from(look, (1.5 / 8, 1.5 / 8), part)[-1], expected.shape)
        assert (got - expected).abs().max() <= expected.max() / 510 + 1e-7
    without = network(classifier_card(options={"position": "none"})).look(image())
    assert packing.pack_from(without, (0.5, 0.5), "position") == [None, None]
    assert None not in packing.pack_from(without, (0.5, 0.5), "content")


def test_all_maps_of_a_layer():
    look = network().look(image())
    got = unpacked(packing.pack_all(look, LAYER, 8), (4, 64, 8, 8))
    for query in (0, 9, 63):
        assert (got[:, query] - exact(look, LAYER, query)).abs().max() < 1e-3


def test_coarse_maps_sum_cells_and_look_from_the_middle():
    look = network(detector_card(192)).look(image(60, 40))  # 128x192 pixels
    layer = look.layers[0]
    height, width = look.recording.grid(layer)
    assert (height, width) == (8, 12)
    entry = packing.describe(look, 5)["layers"][0]
    assert entry["grid"] == [3, 4]  # blocks of 3x3 cells; the last row has two of cells
    assert entry["cell"] == [3 / 8, 3 / 12]
    assert entry["full"] == [8, 12]
    got = unpacked(packing.pack_all(look, layer, 5), (4, 12, 3, 4))
    torch.testing.assert_close(got.sum(dim=(-2, -1)), torch.ones(4, 12, dtype=torch.float64), atol=0.02, rtol=0)
    middle = torch.zeros(4, 9, 12, dtype=torch.float64)
    middle[:, :8] = exact(look, layer, 7 * width + 4)  # the last coarse row starts at 6, its middle is 7
    expected = middle.unflatten(1, (3, 3)).unflatten(-1, (4, 3)).sum(dim=(2, 4))
    assert (got[:, 2 * 4 + 1] - expected).abs().max() <= expected.max() / 500


@pytest.mark.parametrize("edge", [32, 8, 5, 3, 1])
def test_size_is_known_before(edge):
    look = network(detector_card(192)).look(image(60, 40))
    grids = [(4, *look.recording.grid(name)) for name in look.layers]
    packed = [packing.pack_all(look, name, edge) for name in look.layers]
    size = sum(len(one["maps"]) + len(one["peaks"]) for one in packed)
    assert size <= packing.bytes_of(grids, edge) <= size + 16 * len(packed)


def decoded(address):
    kind, _, content = address.partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


def test_small_pictures_are_kept_to_the_pixel():
    grey, colour = torch.arange(64, dtype=torch.uint8).view(1, 8, 8), torch.arange(192, dtype=torch.uint8).view(3, 8, 8)
    for picture in (grey, colour):
        kind, opened = decoded(packing.picture_address(picture))
        assert kind == "data:image/png"
        assert np.array_equal(np.asarray(opened).reshape(8, 8, -1), picture.permute(1, 2, 0).numpy())


def test_large_pictures_are_compressed():
    noise = torch.randint(0, 256, (3, 400, 300), dtype=torch.uint8)
    kind, opened = decoded(packing.picture_address(noise))
    assert kind == "data:image/jpeg"
    assert opened.size == (300, 400)
