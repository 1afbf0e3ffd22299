"""The page: verdicts and figures are those of the outcomes and of the paper."""

import dataclasses
import json

import pytest

from aaconv.reproduction.page import PAGE, write_page
from aaconv.reproduction.plan import ARMS, CLAIMS, TASKS, Claim
from aaconv.reproduction.statistics import interval
from tests.reproduction.outcomes import WOBBLE, made_up, request_for

DIGITS, CLUTTER = (task.title for task in TASKS.values())


def page_of(folder, outcomes, **changes):
    path = write_page(folder, outcomes, request_for(made_up(), **changes))
    assert path == folder / PAGE
    return path.read_text()


def row(page, first, heading):
    """Cells of the row that begins with ``first``, by column, in the section under ``heading``."""
    lines = page.partition(f"## {heading}")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    (found,) = [cells for cells in rows if cells[0] == first]
    return dict(zip(rows[0], found, strict=True))


def verdict_of(page, text):
    return row(page, text, "Does the paper's order hold?")


def test_verdicts_follow_the_differences(tmp_path):
    outcomes = made_up({"aa25": 0.8, "plain": 0.7, "se": 0.6})
    # On one task gather-excite is like plain on average, but not in any seed.
    shift = (0.03, -0.03, 0.0)
    outcomes = [
        dataclasses.replace(run, accuracy=0.7 + WOBBLE[run.seed] + shift[run.seed])
        if (run.arm, run.task) == ("ge", "digits")
        else run
        for run in outcomes
    ]
    page = page_of(tmp_path, outcomes)
    better = verdict_of(page, "attention is better than plain convolution")
    assert better[DIGITS] == better[CLUTTER] == "**holds** +10.00 ± 0.00"
    assert better["difference in the paper"] == "+1.3 CIFAR-100, +1.3 ImageNet, +1.3 figure 4"
    assert verdict_of(page, "squeeze-and-excitation is better than plain")[DIGITS] == "**does not hold** -10.00 ± 0.00"
    reach = 100 * interval(shift).reach
    unsure = verdict_of(page, "plain is better than gather-excite")
    assert unsure[DIGITS] == f"**undecided** +0.00 ± {reach:.2f}"
    assert unsure[CLUTTER] == "**holds** +20.00 ± 0.00"
    assert verdict_of(page, "attention is better than BAM")["difference in the paper"] == "+0.4 ImageNet (remembered)"


def test_summary_counts_the_verdicts(tmp_path):
    page = page_of(tmp_path, made_up({"aa25": 0.6, "plain": 0.5, "aa100": 0.55}))
    assert len(CLAIMS) == 18
    # Attention over its five rivals, three positions, share 25% over 50%, and positions at 100%, are up; 75% over
    # 100%, plain over 100% and the growth of the gain by positions are down.
    told = "of 18 orderings of the paper 10 hold, 3 do not hold, 5 are undecided."
    assert f"On *{DIGITS}*, {told} On *{CLUTTER}*, {told}" in page
    assert "about 1.8 of these 36 verdicts would still not be *undecided*" in page
    assert "runs are finished" not in page


def test_one_verdict_is_told_in_the_singular(tmp_path, monkeypatch):
    kept = [claim for claim in CLAIMS if claim.text.startswith("attention is better than plain")]
    for module in ("page", "comparisons"):
        monkeypatch.setattr(f"aaconv.reproduction.{module}.CLAIMS", [*kept, Claim("nothing", ("se",), ("ge",))])
    page = page_of(tmp_path, made_up({"aa25": 0.6}))
    assert "of 2 orderings of the paper 1 holds, 1 is undecided." in page


def test_tables_show_means_and_the_papers_figures(tmp_path):
    page = page_of(tmp_path, made_up({"se": 0.61, "aa25-none": 0.72, "aa50-none": 0.83}))
    reach = 100 * interval(WOBBLE).reach
    section = "Attention beside convolution, and its rivals"
    cells = row(page, "squeeze-and-excitation", section)
    assert cells["parameters"] == "40,100 / 40,101"
    assert cells[DIGITS] == f"61.0 ± {reach:.1f}"
    assert cells["paper: CIFAR-100, Wide-ResNet-28-10"] == "81.0"
    assert cells["paper: ImageNet, ResNet-50"] == "77.5"
    assert row(page, "gather-excite", section)["paper: ImageNet, ResNet-50"] == ""
    assert row(page, "BAM", section)["paper: ImageNet, ResNet-50"] == "77.3 (remembered)"
    assert row(page, "CBAM", section)["paper: ImageNet, ResNet-50"] == "77.4 (remembered)"
    cells = row(page, "none", "Positions")
    assert cells[CLUTTER] == f"72.0 ± {reach:.1f}"
    assert cells["paper: COCO, RetinaNet on AA-ResNet-50, mAP"] == "37.7"
    assert cells["paper: ImageNet, AA-ResNet-34"] == "74.4"
    assert f"| 50% | none | 83.0 ± {reach:.1f} | 83.0 ± {reach:.1f} | 76.6 |" in page
    assert "| 0% |  | 50.0" in page


def test_every_network_has_a_row(tmp_path):
    page = page_of(tmp_path, made_up({"aa25-sine": 0.64}))
    for arm in ARMS.values():
        assert f"`{arm.model}`" in row(page, arm.label, "All networks")["network"]
    cells = row(page, "attention 25%, sine waves", "All networks")
    assert cells["network"] == "`aa_resnet10xs_r25` position=sine"
    assert cells["lowest, highest"] == "63.0 to 65.0"


def test_says_how_it_was_made(tmp_path):
    outcomes = made_up()
    for run in outcomes:
        folder = tmp_path / run.task / run.arm / f"seed{run.seed}"
        folder.mkdir(parents=True)
        record = {
            "aaconv": "0.2" if run.seed else "0.1",
            "python": "3.11.7",
            "processor": "Z80",
            "cpus": 8,
            "threads": 4,
        }
        record |= {"packages": {"torch": "2.15.0", "numba": "0.68.1"}, "gpus": ["H100"] if run.seed == 2 else []}
        (folder / "environment.json").write_text(json.dumps(record))
    (folder / "environment.json").write_text("{")  # damaged: a note less
    page = page_of(tmp_path, outcomes)
    assert "15 small networks of 40,000 to 41,401 parameters" in page
    assert "1,000 steps of 64 images, adamw, peak learning rate 0.005. This is one rate for all" in page
    assert "images of 24x24 pixels" in page
    assert "`aaconv reproduce --seeds 3 --workers 2`: 90 runs, 2 at a time, 0.9 hours of training together" in page
    packages = "torch 2.15.0, numba 0.68.1, Python 3.11.7"
    assert f"* 4 of 8 cores of Z80 a run; aaconv 0.1, {packages} (30 runs)" in page
    assert f"* 4 of 8 cores of Z80 a run; aaconv 0.2, {packages} (30 runs)" in page
    assert f"* H100; aaconv 0.2, {packages} (29 runs)" in page


def test_changes_are_told(tmp_path):
    command = "aaconv reproduce --seeds 3 --workers 2 --epochs=2"
    page = page_of(tmp_path, made_up(), overrides=("--data.size=17", "--epochs=2"), command=command)
    assert f"`{command}` with --data.size=17:" in page
    assert "images of 17x17 pixels" in page


def test_what_is_finished_so_far(tmp_path):
    means = {"aa25": 0.8, "plain": 0.7}
    outcomes = [run for run in made_up(means) if run.seed < 2 or run.task == "digits"]
    outcomes = [run for run in outcomes if (run.arm, run.seed) not in (("plain", 0), ("plain", 2), ("cbam", 1))]
    outcomes = [run for run in outcomes if run.arm != "bam"]
    page = page_of(tmp_path, outcomes[::-1])
    assert f"**{len(outcomes)} of 90 runs are finished: what follows may change.**" in page
    # Plain has seed 1 alone; attention beside CBAM shares seeds 0 and 2 on one task.
    assert verdict_of(page, "attention is better than plain convolution")[DIGITS] == "missing"
    assert verdict_of(page, "attention is better than CBAM")[DIGITS] == "**holds** +30.00 ± 0.00 (2 seeds)"
    assert verdict_of(page, "attention is better than BAM")[CLUTTER] == "missing"
    section = "Attention beside convolution, and its rivals"
    assert row(page, "plain convolution", section)[DIGITS] == "71.0 (1 seed)"
    assert row(page, "BAM", section)[DIGITS] == row(page, "BAM", section)["parameters"] == "missing"
    assert row(page, "BAM", "All networks")["lowest, highest"] == "missing"
    assert "wait for runs" in page


@pytest.mark.parametrize("count", [1, 31])
def test_few_runs_make_a_page(tmp_path, count):
    page = page_of(tmp_path, made_up()[:count])
    assert f"**{count} of 90 runs" in page


def test_pictures_are_there(tmp_path):
    page = page_of(tmp_path, made_up(tasks=("clutter",)))
    for name in ("shares.png", "mechanisms.png"):
        assert f"]({name})" in page
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert DIGITS not in page
