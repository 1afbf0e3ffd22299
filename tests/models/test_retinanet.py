"""Detectors: sizes, any input, the losses of torchvision's, bodies of others, and options that are refused."""

import pytest
import timm
import torch
import torchvision

import aaconv
from aaconv import AttentionAugmentedConv2d, create_model, list_models
from aaconv.models import is_detector, retinanet
from aaconv.models.complexity import measure_complexity

SMALL = "aa_retinanet_resnet10_fpn"
TARGETS = [
    {"boxes": torch.tensor([[5.0, 8, 40, 60], [60, 60, 100, 90]]), "labels": torch.tensor([1, 0])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
]


def on_meta(name, **options):
    with torch.device("meta"):
        return create_model(name, **options)


def counted(name, **options):
    found = measure_complexity(on_meta(name, num_classes=90, anchor_scales=2, **options), 3, 640, "paper")
    return round(found.parameters / 1e6, 2), round(found.flops / 1e9, 1)


def test_counts_at_the_papers_size():
    """Plain ones round to what is printed (33.4M, 182 G; 52.4M, 243 G); augmented ones come near without a minimum."""
    assert counted("retinanet_resnet50_fpn") == (33.40, 182.3)
    assert counted("retinanet_resnet101_fpn") == (52.39, 242.9)
    assert counted("se_retinanet_resnet50_fpn")[0] == 35.93
    assert counted("aa_retinanet_resnet50_fpn") == (33.68, 187.6)
    assert counted("aa_retinanet_resnet50_fpn", min_key_channels_per_head=0) == (32.97, 182.8)
    assert counted("aa_retinanet_resnet101_fpn", min_key_channels_per_head=0) == (51.57, 245.2)


def test_plain_detector_is_torchvisions():
    """Same parameters but for the heads' norms, which torchvision's first version has not; the same anchors."""
    theirs = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    ours = create_model("retinanet_resnet50_fpn", head_norm=False, num_classes=91)
    frozen = sum(b.numel() for n, b in theirs.named_buffers() if n.endswith((".weight", ".bias")))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) + frozen
    assert ours.head.state_dict().keys() == theirs.head.state_dict().keys()
    images = torchvision.models.detection.image_list.ImageList(torch.zeros(1, 3, 128, 160), [(128, 160)])
    maps = [torch.zeros(1, 256, -(-128 // step), -(-160 // step)) for step in (8, 16, 32, 64, 128)]
    both = [model.anchor_generator(images, maps)[0] for model in (ours, theirs)]
    assert both[0].shape == both[1].shape
    assert (both[0] - both[1]).abs().max() <= 1  # theirs rounds sizes to whole pixels


@pytest.mark.parametrize("name", list_models("*retinanet*"))
def test_every_detector_builds(name):
    assert is_detector(name)
    assert name not in timm.list_models()
    model = on_meta(name, num_classes=3, position="none" if name.startswith("aa_") else "relative")
    assert model.num_classes == 3
    augmented = [m for m in model.modules() if isinstance(m, AttentionAugmentedConv2d)]
    assert bool(augmented) == name.startswith("aa_")
    assert model.no_weight_decay() == set()
    if augmented:
        tables = on_meta(name).no_weight_decay()
        assert len(tables) == 2 * len(augmented)
        assert all(table.startswith("backbone.body.layer") for table in tables)


def test_small_pair_has_equal_parameters():
    sizes = [
        sum(p.numel() for p in create_model(name, num_classes=10).parameters())
        for name in (SMALL, "retinanet_resnet10_fpn")
    ]
    assert abs(sizes[0] - sizes[1]) / sizes[1] < 0.01


@pytest.mark.parametrize("position", ["relative", "sine", "coordconv", "none"])
def test_trains_on_images_of_any_size(position):
    torch.manual_seed(0)
    model = create_model(SMALL, num_classes=2, position=position).train()
    losses = model([torch.rand(3, 128, 100), torch.rand(3, 77, 131)], TARGETS)
    assert set(losses) == {"classification", "bbox_regression"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("size", [(128, 128), (50, 97), (1, 1), (200, 31), (33, 64), (2, 600)], ids=str)
def test_finds_boxes_inside_images_of_any_size(size):
    torch.manual_seed(0)
    model = create_model(SMALL, num_classes=2, score_thresh=0.0).eval()
    with torch.inference_mode():
        (found,) = model([torch.rand(3, *size)])
    assert 0 < len(found["boxes"]) <= 100
    assert found["boxes"].min() >= 0
    assert (found["boxes"][:, 2] <= size[1] + 1e-3).all()
    assert (found["boxes"][:, 3] <= size[0] + 1e-3).all()
    assert found["scores"].diff().max() <= 0


def test_thin_images_train_too():
    """Boxes follow the image, whose short side stays a pixel: the same as of the image made so before."""
    model = create_model(SMALL, num_classes=2).train()
    image, target = torch.rand(3, 600, 2), {"boxes": torch.tensor([[0.0, 60, 2, 300]]), "labels": torch.tensor([1])}
    before = torch.nn.functional.interpolate(image[None], (128, 1), mode="bilinear")[0]
    images, (fitted,) = model.transform([image], [target])
    assert images.image_sizes == [(128, 1)]
    torch.testing.assert_close(fitted["boxes"], torch.tensor([[0.0, 12.8, 1, 64]]))
    torch.testing.assert_close(images.tensors[0, :, :128, :1], model.transform.normalize(before))
    assert all(loss.isfinite() for loss in model([image], [target]).values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_are_float32_under_autocast(dtype):
    """In bfloat16 anchors beyond 512 pixels would move by up to 2."""
    model = create_model("retinanet_resnet10_fpn", num_classes=2, img_size=640, score_thresh=0.0).eval()
    seen = {}
    model.anchor_generator.register_forward_hook(lambda m, args, out: seen.setdefault("anchors", []).append(out[0]))
    images = [torch.rand(3, 320, 640)]
    with torch.inference_mode():
        model(images)
        with torch.autocast("cpu", dtype):
            (found,) = model(images)
    assert torch.equal(*seen["anchors"])
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert found["boxes"].frac().count_nonzero() > len(found["boxes"])


@pytest.mark.parametrize(
    "images, kind, message",
    [
        ([], ValueError, "images must be at least one, got none"),
        ([torch.zeros(1, 8, 8)], ValueError, r"tensors \[3, H, W\], got \[1, 8, 8\] in it"),
        (torch.zeros(3, 8, 8), ValueError, r"got \[8, 8\] in it"),
        ([torch.zeros(3, 0, 8)], ValueError, r"got \[3, 0, 8\] in it"),
        (["a.png"], ValueError, "got str in it"),
        ([torch.zeros(3, 8, 8, dtype=torch.uint8)], TypeError, "images must be floats in 0..1, got torch.uint8"),
    ],
)
def test_refused_images(images, kind, message):
    with pytest.raises(kind, match=message):
        create_model("retinanet_resnet10_fpn", num_classes=2).eval()(images)


def test_larger_maps_than_the_tables():
    """Detectors built for 64 pixels run at 224 and give what a detector with tables made for that size gives."""
    torch.manual_seed(0)
    small = create_model(SMALL, num_classes=2, img_size=64).eval()
    large = create_model(SMALL, num_classes=2, img_size=224).eval()
    large.load_state_dict(small.state_dict())
    grids = [m.attention.position.grid for m in large.modules() if isinstance(m, AttentionAugmentedConv2d)]
    assert grids == [(14, 14), (14, 14), (7, 7)]
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        for mine, other in zip(small.dense_outputs(images), large.dense_outputs(images), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_batches_of_one_size_do_not_change_what_is_found():
    torch.manual_seed(0)
    model = create_model(SMALL, num_classes=2, score_thresh=0.0).eval()
    images = list(torch.rand(3, 3, 100, 128))
    with torch.inference_mode():
        together, alone = model(images), [model([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-4, atol=1e-5)


def test_norms_can_be_frozen_and_layers_left_untrained():
    model = create_model(SMALL, num_classes=2, norm="frozen", trained_layers=2)
    body = model.backbone.body
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in body.modules())
    before = {name: value.clone() for name, value in body.state_dict().items()}
    sum(model.train()([torch.rand(3, 64, 64)] * 2, TARGETS).values()).backward()
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())
    trained = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4"}
    assert all(p.requires_grad for p in create_model(SMALL).parameters())
    assert not any(p.requires_grad for p in create_model(SMALL, trained_layers=0).backbone.body.parameters())


def test_bodies_of_others():
    """A network of timm's, augmented, under a pyramid of ours."""
    body = timm.create_model("resnet18", features_only=True, out_indices=(2, 3, 4), zero_init_last=False)
    body, report = aaconv.augment(body, img_size=64, where=["layer4.*.conv1"], new_channels="fresh")
    assert len(report.replaced) == 2
    model = retinanet.retinanet(body, num_classes=3, pyramid_channels=32, img_size=64)
    losses = model.train()([torch.rand(3, 64, 64)] * 2, TARGETS)
    sum(losses.values()).backward()
    assert body.layer4[0].conv1.attention.position.height.grad.abs().sum() > 0
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 8))
    for body in (plain, timm.create_model("resnet18")):
        with pytest.raises(ValueError, match=r"in_channels must list the channels .* features_only=True"):
            retinanet.retinanet(body, num_classes=3)


def test_counting_takes_other_networks_as_they_are():
    """A part that happens to have the name of our method is a part."""

    class Other(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.dense_outputs = torch.nn.Conv2d(3, 8, 1, bias=False), torch.nn.Linear(8, 10)

        def forward(self, x):
            return self.conv(x)

    assert measure_complexity(Other(), 3, 4).flops == 2 * 16 * 24


def test_torchvisions_detector_can_be_augmented():
    theirs = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64
    )
    theirs, report = aaconv.augment(theirs, img_size=64, where=["backbone.body.layer4.*.conv2"])
    assert [row.grid for row in report.replaced] == [(2, 2)] * 3
    losses = theirs.train()([torch.rand(3, 64, 64)] * 2, TARGETS)
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    "options, kind, message",
    [
        ({"min_sise": 3}, TypeError, "unknown options min_sise of a detector"),
        ({"in_chans": 1}, ValueError, "in_chans must be 3 for a detector, got 1"),
        ({"norm": "group"}, ValueError, "norm"),
        ({"trained_layers": 6}, ValueError, "trained_layers must be at most 5, got 6"),
        ({"position": "learned"}, ValueError, "position"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1"),
        ({"anchor_scales": 0}, ValueError, "anchor_scales must be at least 1"),
        ({"key_ratio": 2.0}, ValueError, "key_ratio"),
        ({"min_size": 0}, ValueError, "min_size must be at least 1"),
        ({"smallest_anchor": -5}, ValueError, "smallest_anchor must be above 0"),
        ({"nms_thresh": 7}, ValueError, "nms_thresh must lie in"),
        ({"detections_per_img": -1}, ValueError, "detections_per_img must be at least 1"),
        ({"pyramid_channels": 60}, ValueError, "pyramid_channels must be a multiple of the norm's group=8"),
    ],
)
def test_refused_options(options, kind, message):
    with pytest.raises(kind, match=message):
        on_meta(SMALL, **options)


def test_shares_of_a_detector_without_attention():
    with pytest.raises(ValueError, match="key_ratio must be left out for a detector without attention"):
        on_meta("retinanet_resnet10_fpn", key_ratio=0.2)
