import pytest

from aaconv.export import export_model

from .networks import named, operated

NETWORKS = {
    "aa_resnet10s": (lambda: named("aa_resnet10s"), 32),
    "aa_wrn10_2": (lambda: named("aa_wrn10_2"), 32),
    "se_resnet10xs": (lambda: named("se_resnet10xs"), 32),
    "bam_resnet10xs": (lambda: named("bam_resnet10xs"), 32),
    "features": (lambda: named("aa_resnet34", features_only=True, out_indices=(1, 2)), 64),
    "detector": (lambda: named("aa_retinanet_resnet10_fpn", img_size=64), 64),
    "operated": (operated, 96),
}


@pytest.mark.hard
@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(tmp_path, name, format):
    build, size = NETWORKS[name]
    exported = export_model(build(), tmp_path / name, format=format, img_size=size)
    assert exported.error <= 1e-5
    assert exported.dynamic
    assert len(exported.shapes) == 3
