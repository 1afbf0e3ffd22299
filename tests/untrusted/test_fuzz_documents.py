"""Ten thousand damaged documents, by bytes and by what they say: each is read or refused in a line."""

import json

import pytest
import yaml

from aaconv.data.box_views import BoxImages, BoxView
from aaconv.data.coco import as_coco, load_coco
from aaconv.reproduction.runs import environments_in
from aaconv.surgery import Report
from aaconv.surgery.report import Replaced, Skipped
from aaconv.tables import read_results
from aaconv.training.config import Recipe
from aaconv.training.recipes import load_recipe, locate, read_yaml
from aaconv.training.records import claim
from tests.data.pictures import flat
from tests.untrusted.damage import damaged
from tests.untrusted.documents import as_text, strange
from tests.untrusted.guard import fuzz

COUNTS = pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.hard)])
JSON_WORDS = (
    b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 5000, b'"\\ud800"', b'"\\u0000"', b"{", b"}",
    b"[", b"]", b",", b":", b'"', b"[" * 2000, b'{"a":' * 2000, b"\xff", b"\xef\xbb\xbf", b"0.0", b'"id":1', b"\n",
)  # fmt: skip


def half(documents, dump, words, *, seed):
    """Every other file is damaged in its bytes, the rest in what it says."""
    good = [dump(document).encode() for document in documents]

    def content(number):
        if number % 2:
            return damaged(good, number // 2, words=words, seed=seed)
        return as_text(strange(documents, number // 2, seed), dump).encode(errors="surrogatepass")

    return content


def coco():
    return {
        "images": [
            {"id": 7, "file_name": "b.png", "height": 8, "width": 8},
            {"id": -5, "file_name": "a/c.png", "height": 8, "width": 8},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "bbox": [1, 2, 3.5, 4.25], "category_id": 3, "area": 7.5, "iscrowd": 0},
            {"id": 2, "image_id": -5, "bbox": [0, 0, 8, 8], "category_id": 9, "segmentation": [[1, 2, 3, 4]]},
            {"id": 3, "image_id": 7, "bbox": [-5, -5, 8, 8], "category_id": 3, "iscrowd": 1},
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


@COUNTS
def test_coco(inside, seed, count):
    """What is accepted can be trained on and written again."""
    (inside / "images" / "a").mkdir(parents=True)
    for name in ("b.png", "a/c.png"):
        (inside / "images" / name).write_bytes(flat(9))
    path, content = inside / "set.json", half([coco()], json.dumps, JSON_WORDS, seed=seed)

    def read(number):
        data = load_coco(path, inside / "images", on_missing=("fail", "skip")[number % 2])
        assert data.target(0)[0].isfinite().all()
        data.fingerprint()
        json.dumps(as_coco(data))
        for index in range(len(data)):
            BoxImages(data, BoxView(8), "fail").read(index, None)

    def make(number):
        path.write_bytes(content(number))
        return number

    found = fuzz(count, make, read, (ValueError, FileNotFoundError))
    assert min(found["accepted"], found["ValueError"] + found["ImageReadError"]) > count / 10


YAML_WORDS = (
    b"&a ", b"*a", b"!!python/object/apply:os.system ", b"!!int ", b"<<: ", b"? ", b"- ", b"|\n", b">\n", b"---\n",
    b"...\n", b"{", b"}", b"[", b"]", b": ", b"#", b"'", b'"', b"\t", b"%YAML 9.9\n", b"@", b"`", b"0b_", b"0x_",
    b"1:60:", b"1:1.5", b"2024-02-30", b".inf", b".nan", b"~", b"no", b"0o8", b"-", b"\x00", b"\xff",
    b"\xef\xbb\xbf", b"\xfe\xff", b"\xe2\x80\xa8", b"class_path: ", b"init_args: ", b"[" * 2000, b"{a: " * 2000,
    b":1" * 3000, b"9" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("count, load", [
    (300, read_yaml), (100, load_recipe),
    pytest.param(10_000, read_yaml, marks=pytest.mark.hard), pytest.param(2000, load_recipe, marks=pytest.mark.hard),
])  # fmt: skip
def test_recipes(inside, seed, count, load):
    texts = [locate(name).read_text() for name in ("digits", "cifar100_aa", "imagenet_shards")]
    packaged = ["".join(line for line in text.splitlines(True) if line[0] != "#").encode() for text in texts]
    documents = [yaml.safe_load(text) for text in packaged]
    path, said = inside / "r.yaml", half(documents, json.dumps, YAML_WORDS, seed=seed)

    def make(number):
        path.write_bytes(damaged(packaged, number // 2, words=YAML_WORDS, seed=seed) if number % 2 else said(number))

    def read(_):
        assert isinstance(load(path), (Recipe, dict))

    found = fuzz(count, make, read, (ValueError, TypeError))
    assert min(found["accepted"], found["ValueError"]) > count / 20


@COUNTS
def test_results(inside, seed, count):
    path = inside / "r.csv"
    good = [b"model,top1\naa_resnet50,77.25\nresnet50,76\n", b'top1,model,note\r\n1e1,aa_resnet34,"a\r\nb"\r\n']
    words = (
        b"\0",
        b"\xff",
        b"nan",
        b"inf",
        b"-1",
        b"1e400",
        b",",
        b'"',
        b"\n",
        b"\r",
        b"model",
        b"top1",
        b"x" * 140_000,
    )

    def make(number):
        path.write_bytes(damaged(good, number, words=words, seed=seed))

    found = fuzz(count, make, lambda _: read_results(path), (ValueError,))
    assert min(found["accepted"], found["ValueError"]) > count / 20


@COUNTS
def test_reports(seed, count):
    """What is accepted can be printed."""
    row = Replaced(
        name="a.b", grid=(7, 7), pool=1, key_channels=8, value_channels=8, num_heads=4, parameters=(1, 2),
        gflops=(0.5, 1.0), memory_mb=(1.0, 2.0),
    )  # fmt: skip
    skipped = Skipped(name="c", reason="too small")
    report = Report(image_size=(32, 32), position="relative", replaced=(row, row), skipped=(skipped,))
    content = half([json.loads(report.to_json())], json.dumps, JSON_WORDS, seed=seed)

    def make(number):
        return content(number).decode("utf-8", "surrogateescape")

    found = fuzz(count, make, lambda text: str(Report.from_json(text)), (ValueError,))
    assert min(found["accepted"], found["ValueError"]) > count / 10


@COUNTS
def test_environments(inside, seed, count):
    """What a run's folder says of itself."""
    recipe = load_recipe("digits")
    claim(inside, recipe, "abc-def", 1, anyway=False)
    path = inside / "environment.json"
    content = half([json.loads(path.read_text())], json.dumps, JSON_WORDS, seed=seed)
    (inside / "recipe.yaml").write_text("seed: 1\n")  # of another run, so that nothing is written

    def make(number):
        path.write_bytes(content(number))

    def read(_):
        environments_in([path])
        with pytest.raises(ValueError, match=r"holds a run with other settings|is damaged"):
            claim(inside, recipe, "abc-def", 1, anyway=False)

    fuzz(count, make, read, ())
