"""Runs of detection: they learn, leave what they should, start from classifiers, and say what they cannot use."""

import csv
import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("faster_coco_eval")
from aaconv.data.scenes import digit_scenes
from aaconv.detection.run import dry_run, load_body, load_weights, train
from aaconv.detection.sources import load_boxes
from aaconv.models.resnet import AugmentedResNet
from aaconv.models.retinanet import SPECS
from aaconv.nn.position import fit_table
from aaconv.training.callbacks import CURVES, METRICS, History
from aaconv.training.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from aaconv.training.fit import LOCK, WEIGHTS
from aaconv.training.keeping import BEST, RESUME
from aaconv.training.recipes import dump_recipe, load_recipe
from aaconv.training.records import CARD, CONFIG, ENVIRONMENT
from tests.detection.box_files import (
    CATEGORY_IDS,
    CLASSES,
    TRAIN,
    VAL,
    box,
    change_boxes,
    lay_both,
    lay_part,
    recipe_of,
)

KEPT = {RESUME, WEIGHTS, BEST, METRICS, CURVES, CONFIG, ENVIRONMENT, CARD, LOCK}
BODY = SPECS["aa_retinanet_resnet10_fpn"].body


@pytest.fixture
def root(tmp_path):
    """Six images in each part, one of them empty, and a category that no box is of."""
    return lay_both(tmp_path / "coco")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A detector that knows its ten images by heart."""
    root = tmp_path_factory.mktemp("learnt")
    lay_part(root, TRAIN, [(64, 64)] * 10, empty=())
    same = (f"--data.val_images={TRAIN}", f"--data.val_boxes=annotations/instances_{TRAIN}.json")
    schedule = ("--schedule.warmup=0.2", "--optimizer.lr=1.5e-3", "--optimizer.weight_decay=0")
    recipe = recipe_of(f"--data.path={root}", *same, *schedule, "--batch_size=5", "--epochs=36")
    return recipe, train(recipe, root / "run", title=None)


def boxes_on(model, images):
    """What a detector finds on the first images to evaluate on."""
    with torch.no_grad():
        return model([images.read(index, None)[0] / 255 for index in range(3)])


def test_learns_its_images_by_heart(learnt):
    recipe, run = learnt
    row = run.history[-1]
    assert row["val_map"] > 0.9
    assert row["val_map50"] > 0.98
    assert row["train_loss"] < 0.1 < run.history[0]["train_loss"]
    images = load_boxes(recipe).val
    for index, found in enumerate(boxes_on(run.model, images)):
        boxes, labels = images.coco.target(index)
        sure = found["scores"] > 0.5
        assert sorted(found["labels"][sure].tolist()) == sorted(labels.tolist())
        for corners, label in zip(found["boxes"][sure], found["labels"][sure], strict=True):
            assert (corners - boxes[labels == label]).abs().max() < 4


def test_leaves_its_files(learnt):
    recipe, run = learnt
    assert {path.name for path in run.folder.iterdir()} == KEPT
    with (run.folder / METRICS).open() as file:
        rows = list(csv.DictReader(file))
    losses = {f"train_{name}" for name in ("loss", "class_loss", "box_loss")}
    assert set(rows[0]) == {"epoch", "step", "seconds", "val_map", "val_map50", "val_map75"} | losses
    assert [int(row["epoch"]) for row in rows] == list(range(1, 37))
    assert int(rows[-1]["step"]) == 72
    assert float(rows[-1]["val_map"]) == pytest.approx(run.history[-1]["val_map"], abs=1e-5)
    assert load_recipe(run.folder / CONFIG, (), type(recipe)) == recipe
    page = (run.folder / CARD).read_text()
    row = run.history[-1]
    figures = f"{row['val_map']:.4f} | {row['val_map50']:.4f} | {row['val_map75']:.4f}"
    assert page.startswith("# aa_retinanet_resnet10_fpn on coco\n")
    assert "| | mAP | mAP50 | mAP75 | epoch |" in page
    assert f"| `model.safetensors`, last epoch | {figures} | 36 |" in page
    assert "10 for training, 10 for evaluation, 3 classes; fingerprint" in page
    assert f"{sum(p.numel() for p in run.model.parameters()):,} parameters" in page
    assert "64x64 pixels" in page


def test_checkpoint_finds_the_same_boxes(learnt):
    recipe, run = learnt
    images = load_boxes(recipe).val
    expected = boxes_on(run.model, images)
    for file in (WEIGHTS, BEST):
        model, card = load_checkpoint(run.folder / file, detector=True)
        assert (card.classes, card.category_ids) == (CLASSES, CATEGORY_IDS)
        assert (card.model, card.edge, card.channels, card.data) == ("aa_retinanet_resnet10_fpn", 64, 3, "coco")
        assert not model.training
    model, _ = load_checkpoint(run.weights, detector=True)
    for ours, theirs in zip(boxes_on(model, images), expected, strict=True):
        assert len(theirs["boxes"]) > 0
        assert all(torch.equal(ours[key], theirs[key]) for key in ("boxes", "scores", "labels"))
    with pytest.raises(
        ValueError, match=r"is a detector's .*, a classifier's is needed; with 'detect' in front it works"
    ):
        load_checkpoint(run.weights)


def test_best_is_the_one_of_highest_map(root, tmp_path, monkeypatch):
    figures = iter([0.2, 0.7, 0.4])
    original = History.on_train_epoch_end

    def scripted(self, trainer, task):
        original(self, trainer, task)
        self.rows[-1]["val_map"] = next(figures)
        kept.append({name: value.clone() for name, value in task.model.state_dict().items()})

    kept = []
    monkeypatch.setattr(History, "on_train_epoch_end", scripted)
    train(recipe_of(f"--data.path={root}", "--epochs=3"), tmp_path / "run", title=None)
    for file, epoch in ((BEST, 1), (WEIGHTS, 2)):
        model, _ = load_checkpoint(tmp_path / "run" / file, detector=True)
        assert all(torch.equal(value, kept[epoch][name]) for name, value in model.state_dict().items()), file


def test_scenes_are_made_and_learnt_from(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "aaconv.detection.sources.digit_scenes", lambda path: digit_scenes(path, train_count=6, test_count=3, edge=72)
    )
    recipe = recipe_of("--data.name=scenes", f"--data.path={tmp_path}", "--data.size=72", "--augment.smallest=0.5")
    run = train(replace(recipe, augment=replace(recipe.augment, largest=2.0, flip=True)), tmp_path / "run", title=None)
    assert run.card.classes == tuple("0123456789")
    assert run.card.category_ids == tuple(range(1, 20, 2))
    assert run.history[-1]["step"] == 2
    assert "6 for training, 3 for evaluation, 10 classes" in (run.folder / CARD).read_text()


def test_images_of_all_sizes_and_without_boxes(tmp_path):
    sizes = [(64, 64), (33, 65), (90, 20), (64, 64), (17, 40), (5, 7)]
    root = lay_both(tmp_path / "coco", sizes=sizes, empty=(0, 2, 3), crowds=(2, 4))
    recipe = recipe_of(f"--data.path={root}", "--epochs=2", "--batch_size=2", "--augment.smallest=0.5")
    run = train(recipe, tmp_path / "run", title=None)
    assert [row["step"] for row in run.history] == [3, 6]
    assert all(0 < row["train_loss"] < 100 for row in run.history)
    page = (run.folder / CARD).read_text()
    assert "; training: left out: 2 boxes of crowds, in training; evaluation: left out: 2 boxes of crowds" in page


@pytest.mark.parametrize(
    "overrides",
    [
        ["--machine.precision=bf16", "--machine.channels_last=true"],
        ["--accumulate=3", "--ema_decay=0.5", "--machine.workers=1"],
        ["--model.name=retinanet_resnet10_fpn", "--model.options={anchor_scales: 1, head_norm: false}"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_switches_train(root, tmp_path, overrides):
    run = train(recipe_of(f"--data.path={root}", *overrides), tmp_path / "run", title=None)
    assert 0 < run.history[0]["train_loss"] < 100
    load_checkpoint(run.folder / BEST, detector=True)


def test_only_what_is_the_same_for_every_image_is_compiled(root, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *_, **__: compiled.append(type(self).__name__))
    train(recipe_of(f"--data.path={root}", "--machine.compile=true"), tmp_path / "run", title=None)
    assert compiled == ["Pyramid", "Head"]


def test_another_run_is_refused(root, tmp_path):
    train(recipe_of(f"--data.path={root}"), tmp_path / "run", title=None)
    with pytest.raises(ValueError, match=r"other settings \(epochs 1 -> 2\); use another --out folder"):
        train(recipe_of(f"--data.path={root}", "--epochs=2"), tmp_path / "run")
    change_boxes(root, VAL, lambda content: content["annotations"].pop())
    with pytest.raises(ValueError, match=r"other settings \(the images\); use another --out folder"):
        train(recipe_of(f"--data.path={root}"), tmp_path / "run")


def test_dry_run_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = dry_run(recipe_of("--data.path=unused", "--data.size=32"))
    assert said.startswith("aa_retinanet_resnet10_fpn: ")
    assert said.endswith(" at 32 pixels, 80 classes; one step on synthetic images works")
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


def test_loss_that_is_not_finite_stops(root, tmp_path):
    recipe = recipe_of(f"--data.path={root}", "--optimizer.lr=1e30", "--batch_size=2", "--schedule.warmup=0")
    message = r"the loss stopped being finite at optimiser step 2; there is no checkpoint yet; use a smaller optim"
    with pytest.raises(FloatingPointError, match=message):
        train(recipe, tmp_path / "run", title=None)
    assert not (tmp_path / "run" / WEIGHTS).exists()


def save_classifier(path, size=64, spec=BODY, seed=1, **changes):
    """A classifier's checkpoint, and its weights; ``changes`` by name, None takes one out."""
    torch.manual_seed(seed)
    model = AugmentedResNet(spec, img_size=size, num_classes=7)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    weights = {name: value for name, value in {**model.state_dict(), **changes}.items() if value is not None}
    model.state_dict = lambda: weights
    save_checkpoint(path, model, ModelCard("aa_resnet10s", tuple("abcdefg"), 3, size, (0.5,) * 3, (0.5,) * 3))
    return weights


@pytest.mark.parametrize("norm, trained", [("batch", 5), ("frozen", 0)])
def test_begins_with_the_body_of_a_classifier(root, tmp_path, norm, trained):
    weights = save_classifier(tmp_path / "classifier.safetensors")
    options = f"--model.options={{norm: {norm}, trained_layers: {trained}}}"
    backbone = f"--model.backbone={tmp_path / 'classifier.safetensors'}"
    recipe = recipe_of(f"--data.path={root}", options, backbone, "--optimizer.lr=1e-9", "--optimizer.weight_decay=0")
    run = train(recipe, tmp_path / "run", title=None)
    body = run.model.backbone.body.state_dict()
    learnt = {name: value for name, value in body.items() if "running" not in name and "tracked" not in name}
    assert len(learnt) == 51
    for name, value in learnt.items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-6, msg=name)
    changed = {name for name in body if name.endswith("running_mean") and not torch.equal(body[name], weights[name])}
    assert (len(changed) == 0) == (norm == "frozen")


def test_position_tables_of_another_grid_are_fitted(tmp_path):
    weights = save_classifier(tmp_path / "classifier.safetensors", size=96)
    body = detector().backbone.body
    load_body(body, tmp_path / "classifier.safetensors")
    tables = {name: value for name, value in body.state_dict().items() if ".position." in name}
    assert len(tables) == 6
    for name, value in tables.items():
        assert len(value) < len(weights[name])
        torch.testing.assert_close(value, fit_table(weights[name], (len(value) + 1) // 2))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"layer2.0.bn2.weight": None}, r"a classifier of the detector's body; \S+ has no 'layer2\.0\.bn2\.weight'"),
        ({"layer5.weight": torch.ones(1)}, r"\S+ has 'layer5\.weight', which the body has not"),
        ({"layer4.0.bn2.weight": torch.ones(9)}, r"model\.backbone \S+ does not fit: .*layer4\.0\.bn2\.weight"),
        ({"layer4.0.bn2.weight": torch.full((96,), torch.nan)}, r"weights that are not finite: layer4\.0\.bn2\.weight"),
    ],
)
def test_other_networks_are_refused_as_bodies(tmp_path, changes, message):
    save_classifier(tmp_path / "other.safetensors", **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_body(detector().backbone.body, tmp_path / "other.safetensors")
    assert "\n" not in str(error.value)


def detector(classes=CLASSES, name="aa_retinanet_resnet10_fpn", size=64):
    ids = tuple(range(len(classes)))
    return ModelCard(name, classes, 3, size, (0.5,) * 3, (0.5,) * 3, category_ids=ids).build()


def test_begins_with_a_detector(learnt, root, tmp_path):
    """Of the same classes: finds what it found before."""
    _, run = learnt
    weights = f"--model.weights={run.weights}"
    again = recipe_of(f"--data.path={root}", weights, "--optimizer.lr=1e-9", "--optimizer.weight_decay=0")
    other = train(again, tmp_path / "run", title=None)
    for name, value in run.model.named_parameters():
        torch.testing.assert_close(other.model.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)
    assert 0.3 < other.history[-1]["val_map50"] <= 1  # images that it has not seen


@pytest.mark.parametrize("classes", ["abc", "abcd"])
@pytest.mark.parametrize("size", [64, 96])
def test_classes_of_a_detector_begin_anew_where_they_are_others(learnt, classes, size):
    _, run = learnt
    model = detector(tuple(classes), size=size)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_weights(model, run.weights)
    held = run.model.state_dict()
    fresh = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    layer = "head.classification_head.cls_logits"
    assert {name for name in fresh if "num_batches" not in name} == (
        {f"{layer}.weight", f"{layer}.bias"} if len(classes) == 4 else set()
    )
    for name, value in model.state_dict().items():
        if name in fresh:
            continue
        expected = fit_table(held[name], (len(value) + 1) // 2) if ".position." in name else held[name]
        torch.testing.assert_close(value, expected, msg=name)


def test_other_networks_are_refused_as_detectors(learnt, root, tmp_path):
    _, run = learnt
    with pytest.raises(ValueError, match=r"model\.weights \S+ does not fit: .*conv1") as error:
        load_weights(detector(name="retinanet_resnet10_fpn"), run.weights)
    assert "\n" not in str(error.value)
    save_classifier(tmp_path / "classifier.safetensors")
    recipe = recipe_of(f"--data.path={root}", f"--model.weights={tmp_path / 'classifier.safetensors'}")
    with pytest.raises(ValueError, match=r"model\.weights \S+ does not fit: "):
        train(recipe, tmp_path / "run", title=None)
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        load_weights(detector(), tmp_path / "none.safetensors")


def test_a_body_without_attention_is_refused_in_place_of_one_with(root, tmp_path):
    save_classifier(tmp_path / "plain.safetensors", spec=replace(BODY, shares=None))
    recipe = recipe_of(f"--data.path={root}", f"--model.backbone={tmp_path / 'plain.safetensors'}")
    with pytest.raises(ValueError, match=r"must be a classifier of the detector's body; \S+ has no 'layer2\.0\.conv1"):
        train(recipe, tmp_path / "run", title=None)


def test_files_that_hold_no_body_are_refused(root, tmp_path):
    (tmp_path / "text.safetensors").write_text("no weights")
    for name, kind, message in (
        ("none", FileNotFoundError, r"no checkpoint file \S+none\.safetensors"),
        ("text", ValueError, r"text\.safetensors is no safetensors checkpoint"),
    ):
        recipe = recipe_of(f"--data.path={root}", f"--model.backbone={tmp_path / name}.safetensors")
        with pytest.raises(kind, match=message):
            train(recipe, tmp_path / "run", title=None)
        assert not (tmp_path / "run" / CONFIG).exists()  # so that the right name may be given next


def of_category(number):
    return lambda content: content["annotations"][0].update(category_id=number)


def with_box(*numbers):
    return lambda content: content["annotations"][0].update(bbox=list(numbers))


def without(name):
    return lambda content: content.update({name: []})


def twice(name):
    return lambda content: content[name].append(content[name][0])


UNUSABLE = {
    "no annotations": (
        without("annotations"),
        ValueError,
        "has no boxes: its annotations must be a list, got a list of 0",
    ),
    "no images": (without("images"), ValueError, "has no images: they must be a list of objects, got a list of 0"),
    "no categories": (without("categories"), ValueError, "has no categories: they must be a list of objects"),
    "image twice": (twice("images"), ValueError, r"images\[6\]\.id 1000 comes twice; ids must be unique"),
    "category twice": (twice("categories"), ValueError, r"categories\[3\]\.id 9 is the id of 'wide' too"),
    "nothing but unknown categories": (
        lambda content: [each.update(category_id=5) for each in content["annotations"]],
        ValueError,
        r"has no boxes that can be used, of \d: {'of unknown categories'",
    ),
    "a file that is not there": (
        lambda content: content["images"][1].update(file_name="gone.png"),
        FileNotFoundError,
        r"1 of the 6 images of \S+ are not in \S+, the first is 'gone\.png'; leave them out",
    ),
    "a file elsewhere": (
        lambda content: content["images"][1].update(file_name="../1.png"),
        ValueError,
        r"images\[1\]\.file_name must name a file inside the folder of images",
    ),
    "another size": (
        lambda content: content["images"][1].update(width=63),
        ValueError,
        r"1\.png: 64x50 pixels, its boxes are of 63x50",
    ),
}


@pytest.mark.parametrize("part", [TRAIN, VAL])
@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_annotations_are_refused(root, tmp_path, case, part):
    change, kind, message = UNUSABLE[case]
    change_boxes(root, part, change)
    with pytest.raises(kind, match=message) as error:
        train(recipe_of(f"--data.path={root}"), tmp_path / "run", title=None)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / WEIGHTS).exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": []}', "\udcff"], ids=repr)
def test_files_that_are_no_annotations_are_refused(root, tmp_path, text):
    path = root / "annotations" / f"instances_{TRAIN}.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"instances_{TRAIN}\.json") as error:
        train(recipe_of(f"--data.path={root}"), tmp_path / "run", title=None)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_files_that_are_not_there_are_named(root, tmp_path):
    (root / "annotations" / f"instances_{VAL}.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"no annotation file \S+instances_{VAL}\.json"):
        train(recipe_of(f"--data.path={root}"), tmp_path / "run", title=None)
    with pytest.raises(FileNotFoundError, match=r"no folder of images \S+none"):
        train(recipe_of(f"--data.path={root}", "--data.train_images=none"), tmp_path / "run", title=None)
    with pytest.raises(ValueError, match=r"data\.path must say where the folder in COCO's format lies, got none; give"):
        train(recipe_of(), tmp_path / "run", title=None)
    assert not (tmp_path / "run").exists()


DROPPED = {
    "nan": (with_box(float("nan"), 1, 5, 5), "1 box not four finite numbers"),
    "infinite": (with_box(1, 1, float("inf"), 5), "1 box not four finite numbers"),
    "no area": (with_box(1, 1, 0, 5), "1 box of no width or height"),
    "negative": (with_box(9, 9, -5, 5), "1 box of no width or height"),
    "outside": (with_box(70, 1, 5, 5), "1 box outside their image"),
    "tiny": (with_box(1, 1, 5, 0.5), "1 box smaller than a pixel"),
    "unknown category": (of_category(5), "1 box of unknown categories"),
    "unknown image": (lambda content: content["annotations"][0].update(image_id=5), "1 box of unknown images"),
    "image without a file": (lambda content: content["images"][4].update(file_name="gone.png"), "1 image missing"),
}


def test_unusable_boxes_are_dropped_and_counted(root, tmp_path, capsys):
    """All of them at once in training, one in evaluation, and the run goes on."""

    def spoil(content):
        wrong = [box(979, [70, 1, 5, 5], 9), box(979, [9, 9, -5, 5], 9), box(979, [1, 1, 0, 5], 9)]
        wrong += [box(979, [float("nan"), 1, 5, 5], 9), box(979, [1, 1, 5, 0.5], 9), box(979, [1, 1, 9, 9], 5)]
        content["annotations"] += [*wrong, box(5, [1, 1, 9, 9], 9)]
        content["images"][4]["file_name"] = "gone.png"

    change_boxes(root, TRAIN, spoil)
    change_boxes(root, VAL, with_box(70, 1, 5, 5))
    run = train(recipe_of(f"--data.path={root}", "--data.on_broken=skip"), tmp_path / "run", title="training")
    assert 0 < run.history[-1]["train_loss"] < 100
    said = capsys.readouterr().err.splitlines()[0]
    page = (run.folder / CARD).read_text()
    for text in (said, page):
        left_out = text.partition("left out: ")[2].partition("; evaluation: ")
        for reason in (
            *("1 box of unknown images", "1 box of unknown categories", "1 box not four finite numbers"),
            *("2 boxes of no width or height", "1 image missing from the folder", "1 box outside their image"),
            *("1 box smaller than a pixel", "1 box of missing images"),
        ):
            assert reason in left_out[0], reason
        assert left_out[2].startswith("left out: 1 box outside their image")
    assert "5 for training, 6 for evaluation" in page


@pytest.mark.parametrize("case", DROPPED)
def test_what_is_dropped_is_no_target(root, tmp_path, case):
    change, reason = DROPPED[case]
    data = load_boxes(recipe_of(f"--data.path={root}"))
    before = [data.train.coco.target(index)[0] for index in range(6)]
    change_boxes(root, TRAIN, change)
    data = load_boxes(recipe_of(f"--data.path={root}", "--data.on_broken=skip"))
    assert data.notes().startswith("training: left out: ")
    assert reason in data.notes()
    after = [data.train.coco.target(index)[0] for index in range(len(data.train))]
    if case == "image without a file":
        del before[4]
    else:
        before[0] = before[0][1:]
    assert [boxes.tolist() for boxes in after] == [boxes.tolist() for boxes in before]


def test_evaluation_on_nothing_but_crowds_is_refused(root, tmp_path):
    change_boxes(root, VAL, lambda content: [each.update(iscrowd=1) for each in content["annotations"]])
    with pytest.raises(ValueError, match=rf"instances_{VAL}\.json must have a box that is no crowd to evaluate on"):
        train(recipe_of(f"--data.path={root}"), tmp_path / "run", title=None)
    assert not (tmp_path / "run").exists()


def test_evaluation_on_other_categories_is_refused(root, tmp_path):
    change_boxes(root, VAL, lambda content: content["categories"][0].update(name="broad"))
    with pytest.raises(
        ValueError, match=r"category 'broad' with id 9 is none of training's; give it the id and the na"
    ):
        train(recipe_of(f"--data.path={root}"), tmp_path / "run", title=None)
    change_boxes(root, VAL, lambda content: content.update(categories=[{"id": 4, "name": "tall"}]))
    run = train(recipe_of(f"--data.path={root}"), tmp_path / "run", title=None)
    assert run.card.classes == CLASSES


def test_configuration_says_which_images(root, tmp_path):
    run = train(recipe_of(f"--data.path={root}"), tmp_path / "run", title=None)
    held = json.loads((run.folder / ENVIRONMENT).read_text())
    assert held["data"] == load_boxes(run_recipe(run)).fingerprint()
    assert dump_recipe(run_recipe(run)) == (run.folder / CONFIG).read_text()


def run_recipe(run):
    return load_recipe(run.folder / CONFIG, (), type(recipe_of()))
