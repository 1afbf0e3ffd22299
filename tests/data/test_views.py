"""From image files of any size to what the network sees."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from aaconv.data.views import AREA, ASPECT, View, random_box

SIZES = [(100, 80), (80, 100), (500, 40), (64, 64)]


@pytest.fixture
def photo():
    """A colour picture, smooth and rough, wider than high."""
    rows, columns = np.mgrid[0:75, 0:120]
    smooth = np.stack([rows * 3, columns * 2, (rows + columns)], axis=2)
    return Image.fromarray((smooth + np.random.default_rng(0).integers(0, 20, smooth.shape)).astype(np.uint8))


def draws(count):
    return (torch.Generator().manual_seed(seed) for seed in range(count))


@pytest.mark.parametrize("width, height", SIZES)
def test_random_boxes_lie_in_the_image_and_in_range(width, height):
    boxes = [random_box(width, height, generator) for generator in draws(500)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        wide, tall = right - left, bottom - top
        if 500 in (width, height):
            continue  # most draws do not fit
        slack = 1 / min(wide, tall)  # edges are whole pixels
        assert ASPECT[0] * (1 - slack) <= wide / tall <= ASPECT[1] * (1 + slack)
        assert AREA[0] * (1 - 2 * slack) <= wide * tall / (width * height) <= AREA[1]
    areas = [(right - left) * (bottom - top) / (width * height) for left, top, right, bottom in boxes]
    if width == height:
        assert min(areas) < 0.1
        assert max(areas) > 0.8
        assert min(box[0] for box in boxes) == 0
        assert max(box[2] for box in boxes) == width


def test_random_boxes_are_as_likely_as_they_should_be():
    boxes = np.array([random_box(400, 400, generator) for generator in draws(2000)])
    wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    small = wide * tall < 0.5 * 400**2  # these always fit
    assert np.log(wide / tall)[small].mean() == pytest.approx(0, abs=0.02)
    assert (wide > tall)[small].mean() == pytest.approx(0.5, abs=0.05)
    assert (boxes[small, 0] / (400 - wide[small])).mean() == pytest.approx(0.5, abs=0.03)
    assert (boxes[small, 1] / (400 - tall[small])).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("size, wanted", [((1000, 9), (12, 9)), ((9, 1000), (9, 12)), ((1, 1), (1, 1))])
def test_where_nothing_fits_the_middle_is_taken(size, wanted):
    for generator in draws(20):
        left, top, right, bottom = random_box(*size, generator)
        assert (right - left, bottom - top) == wanted
        assert (left + right, top + bottom) == size


@pytest.mark.parametrize("size, crop_pct", [(32, 1.0), (28, 0.875), (24, 0.9), (150, 0.87)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_evaluation_is_resize_and_centre_crop(photo, size, crop_pct, mode):
    from torchvision.transforms import v2

    photo = photo.crop((0, 0, 75, 75)).convert(mode)
    steps = [v2.Resize(math.floor(size / crop_pct)), v2.CenterCrop(size), v2.PILToTensor()]
    got, wanted = View(size, len(photo.getbands()), crop_pct).evaluation(photo), v2.Compose(steps)(photo)
    assert got.dtype == torch.uint8
    assert (got.float() - wanted.float()).abs().max() <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_evaluation_of_oblong_images_is_resize_and_centre_crop(photo, turned):
    from torchvision.transforms import v2

    photo = photo.transpose(Image.Transpose.ROTATE_90) if turned else photo  # 75 x 120 becomes 40 x 64
    wanted = v2.Compose([v2.Resize(40), v2.CenterCrop(36), v2.PILToTensor()])(photo).float()
    got = View(36, 3, 0.9).evaluation(photo).float()
    assert (got - wanted).abs().max() <= 1


@pytest.mark.parametrize("crop", ["inception", "resize"])
def test_flips_half(photo, crop):
    view, plain = (View(16, 3, crop=crop, flip=flip) for flip in (True, False))
    flipped = 0
    for seed in range(200):
        got, without = (one.training(photo, torch.Generator().manual_seed(seed)) for one in (view, plain))
        assert got.shape == (3, 16, 16)
        assert torch.equal(got, without) or torch.equal(got, without.flip(2))
        flipped += not torch.equal(got, without)
    assert 80 < flipped < 120


def test_inception_takes_the_box(photo):
    for seed in range(5):
        box = random_box(*photo.size, torch.Generator().manual_seed(seed))
        wanted = np.array(photo.resize((16, 16), Image.Resampling.BILINEAR, box=box))
        got = View(16, flip=False).training(photo, torch.Generator().manual_seed(seed))
        np.testing.assert_array_equal(got.permute(1, 2, 0), wanted)


def test_resize_is_evaluation_until_it_is_flipped(photo):
    view = View(16, 1, 0.9, crop="resize", flip=False)
    got = view.training(photo, torch.Generator())
    assert got.shape == (1, 16, 16)
    assert torch.equal(got, view.evaluation(photo))
    assert torch.equal(view(photo, None), view.evaluation(photo))
    assert torch.equal(view(photo, torch.Generator()), got)


def test_rand_augment_comes_last_and_from_the_generator(photo):
    view, plain = (View(16, rand_augment=magnitude) for magnitude in (9, 0))
    one, two, without = (
        each.training(photo, torch.Generator().manual_seed(seed)) for each, seed in ((view, 3), (view, 3), (plain, 3))
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, without)


def test_other_crops_are_refused():
    with pytest.raises(ValueError, match=r"crop must be one of \['inception', 'resize'\], got 'inceptoin'; did you"):
        View(16, crop="inceptoin")
