import json

import onnx
import pytest
import torch
from torch import nn

from aaconv._errors import Failed
from aaconv.cli import main
from aaconv.cli.export import FORMAT_NAMES
from aaconv.cli.export import OPSETS as OFFERED
from aaconv.export import FORMATS, export_checkpoint, export_model
from aaconv.export.export import compare
from aaconv.export.formats import OPSETS
from aaconv.export.program import trace

from .networks import tiny


@pytest.fixture(scope="module")
def network():
    return tiny(grid=(6, 7))


def test_a_program_takes_any_size_and_says_what_it_is(tmp_path, network):
    path = tmp_path / "folder" / "tiny.pt2"
    exported = export_model(network, path, format="torch", img_size=(10, 13), description={"classes": ["a", "b"]})
    assert exported.error <= 1e-5
    assert exported.dynamic
    assert [path] == list(path.parent.iterdir())
    extra = {"aaconv.json": ""}
    module = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["aaconv.json"]) == {"classes": ["a", "b"]}
    for shape in ((1, 3, 5, 6), (2, 3, 6, 7), (3, 3, 31, 8)):  # within the tables, at them, beyond them
        images = torch.randn(shape)
        torch.testing.assert_close(module(images), network(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "opset", [18, pytest.param(20, marks=pytest.mark.hard), pytest.param(23, marks=pytest.mark.hard)]
)
def test_onnx_takes_any_size(tmp_path, network, opset):
    import onnxruntime

    path = tmp_path / "tiny.onnx"
    assert export_model(network, path, opset=opset, img_size=10, description={"channels": 3}).error <= 1e-5
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset
    assert json.loads(model.metadata_props[0].value) == {"channels": 3}
    session = onnxruntime.InferenceSession(path)
    assert [x.name for x in (*session.get_inputs(), *session.get_outputs())] == ["images", "logits"]
    images = torch.randn(3, 3, 4, 29)
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    torch.testing.assert_close(found, network(images), rtol=0, atol=1e-6)


def test_the_least_edge_is_what_the_program_takes(tmp_path):
    """A map of one cell, 8 pixels, was taken for fixed; PyTorch records that as a check, not as a bound."""
    network = torch.nn.Conv2d(3, 4, 3, stride=8, padding=1).eval()
    exported = export_model(network, tmp_path / "x.pt2", format="torch", img_size=12)
    assert exported.least_edge == 9
    assert exported.shapes[-1][2:] == (9, 9)
    module = torch.export.load(exported.path).module()
    assert module(torch.zeros(1, 3, 9, 40)).shape == (1, 4, 2, 5)
    with pytest.raises(AssertionError, match="Guard failed"):
        module(torch.zeros(1, 3, 8, 40))


@pytest.mark.parametrize("position", ["sine", "coordconv", "none"])
def test_other_positions(tmp_path, position):
    assert export_model(tiny(position=position), tmp_path / "x.pt2", format="torch", img_size=9).dynamic


@pytest.mark.parametrize("strict", [False, True])
def test_tables_grow_inside_the_program(strict):
    layer = tiny(grid=(4, 9))[0]
    free = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    program = torch.export.export(layer, (torch.randn(2, 3, 6, 6),), dynamic_shapes=free, strict=strict).module()
    for size in ((3, 3), (4, 9), (9, 4), (12, 20)):
        images = torch.randn(2, 3, *size)
        torch.testing.assert_close(program(images), layer(images), rtol=0, atol=1e-6)


def test_one_size(tmp_path, network):
    exported = export_model(network, tmp_path / "x.pt2", format="torch", img_size=8, dynamic=False)
    assert exported.shapes == ((2, 3, 8, 8),)
    assert "this size alone" in str(exported)
    with pytest.raises(Exception, match="Guard failed"):
        torch.export.load(exported.path).module()(torch.randn(2, 3, 8, 9))


def test_a_file_that_differs_is_not_left(tmp_path, network, monkeypatch):
    other = tiny(grid=(6, 7))
    nn.init.zeros_(other[-1].weight)
    monkeypatch.setattr("aaconv.export.export.trace", lambda model, *rest, **kind: trace(other, *rest, **kind))
    with pytest.raises(Failed, match="differs from the network by"):
        export_model(network, tmp_path / "x.pt2", format="torch", img_size=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "run",
    [
        lambda x: [torch.full((len(x), 5), torch.nan)],
        lambda x: [torch.zeros(len(x), 4)],
    ],
)
def test_comparing_notices(network, run):
    with pytest.raises(Failed, match="exported file"):
        compare(network, run, [(2, 3, 8, 8)])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda m: m.train(), {}, "evaluation mode"),
        (lambda m: m[1].train(), {}, "evaluation mode"),
        (lambda m: m.half(), {}, r"float32 weights, got torch.float16; convert it with .float\(\)"),
        (lambda m: m.to("meta"), {}, "on the CPU, got meta"),
        (lambda m: m, {"opset": 17}, "opset must be one of 18, 20, 23, got 17"),
        (lambda m: m, {"opset": 24}, "opset must be one of"),
        (lambda m: m, {"format": "tflite"}, "format must be one of"),
        (lambda m: m, {"img_size": 0}, "img_size must be at least 1"),
        (lambda m: m, {"img_size": (8, 8, 8)}, "img_size must be one int or two"),
        (lambda m: m, {"channels": 4}, r"does not take images of \[2, 4, 9, 9\]: input must have shape"),
        (lambda m: m.append(nn.Unflatten(1, (2, 3)).eval()), {}, r"does not take images of \[2, 3, 9, 9\]"),
    ],
)
def test_bad_arguments(tmp_path, change, options, message):
    with pytest.raises(ValueError, match=message):
        export_model(change(tiny(grid=(5, 5))), tmp_path / "x", **{"img_size": 9, **options})
    assert not list(tmp_path.iterdir())


def test_our_kernels_stay_at_home(tmp_path):
    with pytest.raises(ValueError, match=r"aaconv.relative_attention.*impl='auto'"):
        export_model(tiny(impl="cpu"), tmp_path / "x.pt2", format="torch", img_size=9)


def test_a_network_of_one_size_says_so(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 49, 5)).eval()
    with pytest.raises(ValueError, match=r"does not take images of \[1, 3, 11, 11\].*--static"):
        export_model(model, tmp_path / "x.pt2", format="torch", img_size=9)
    assert export_model(model, tmp_path / "x.pt2", format="torch", img_size=9, dynamic=False).error <= 1e-5


def test_a_folder_is_no_file(tmp_path, network):
    with pytest.raises(IsADirectoryError, match="got a folder"):
        export_model(network, tmp_path, img_size=9)


def test_the_command_offers_what_there_is():
    assert tuple(FORMATS) == FORMAT_NAMES
    assert OPSETS == OFFERED


@pytest.mark.hard
def test_checkpoint_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "digits", "--format", "torch", "--img-size", "24", "40"]) == 0
    assert capsys.readouterr().out.startswith("digits.pt2: any batch, height and width")
    extra = {"aaconv.json": ""}
    torch.export.load("digits.pt2", extra_files=extra)
    card = json.loads(extra["aaconv.json"])
    assert card["classes"]
    assert card["mean"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--format", "tflite"], "invalid choice"),
        (["digits", "--opset", "17"], "invalid choice"),
        (["nowhere.safetensors"], "nowhere.safetensors"),
        (["digits", "--img-size", "3", "4", "5"], "got 3 numbers"),
        (["digits", "--img-size", "-3"], "img_size must be at least 1"),
        (["digits", "--out", "."], "got a folder"),
    ],
)
def test_bad_commands(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["export", *arguments])
    except SystemExit as done:
        code = done.code
    assert code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("aaconv.export.export.find_spec", lambda name: None)
    assert main(["export", "digits", "--format", "executorch", "--out", str(tmp_path / "x.pte")]) == 2
    assert "pip install 'aaconv[executorch]'" in capsys.readouterr().err


def test_checkpoint_of_a_run_gives_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        export_checkpoint("runs/mine/model.safetensors")
