"""Odd machines: another locale, no home, no cache folders, odd time zones; paths with spaces and Korean letters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aaconv.data.coco import load_coco
from aaconv.tables import read_results
from aaconv.training.recipes import load_recipe
from tests.detection.box_files import VAL, lay_part
from tests.hard_use.commands import lay_inputs
from tests.hard_use.whole import faults, unfinished

ROOT = Path(__file__).parents[2]
NOWHERE = "/proc/nowhere"  # where even root makes no folder
CACHES = dict.fromkeys(("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME"), NOWHERE)
ENVIRONMENTS = {
    "plain C": {"LC_ALL": "C"},
    "no home": {"HOME": None, "XDG_CACHE_HOME": None},
    "home and caches nowhere": {"HOME": NOWHERE, **CACHES},
    "time and terminal": {"TZ": "Nowhere/Odd", "TERM": "dumb", "COLUMNS": "0", "PYTHONWARNDEFAULTENCODING": "1"},
}


@pytest.mark.hard
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_commands_on_odd_machines(name, tmp_path):
    inputs, out = lay_inputs(tmp_path / "in 입력"), tmp_path / "out 결과 폴더"
    changed = {**os.environ, "OMP_NUM_THREADS": "1", **ENVIRONMENTS[name]}
    changed = {key: value for key, value in changed.items() if value is not None}
    command = [sys.executable, "-m", "tests.hard_use.sequence", str(inputs), str(out)]
    done = subprocess.run(command, cwd=ROOT, env=changed, capture_output=True, check=False)
    said, printed = (text.decode("utf-8", "replace") for text in (done.stderr, done.stdout))
    assert done.returncode == 0, said[-3000:]
    assert "Traceback" not in said
    codes = json.loads(printed.splitlines()[-1])
    assert codes.pop("no such file") == 2
    assert codes == dict.fromkeys(codes, 0), said[-3000:]
    assert not faults(out)
    assert not unfinished(out)


def test_windows_files_of_settings_and_figures(tmp_path):
    recipe, results = tmp_path / "mine 나의.yaml", tmp_path / "top.csv"
    recipe.write_bytes(b"\xef\xbb\xbfepochs: 3\r\nmodel:\r\n  name: aa_resnet10s\r\n")
    results.write_bytes(b"\xef\xbb\xbfmodel,top1\r\naa_resnet10s,12.5\r\n")
    assert load_recipe(recipe).epochs == 3
    assert load_recipe(recipe).model.name == "aa_resnet10s"
    assert read_results(results) == {"aa_resnet10s": 12.5}


def test_windows_files_of_boxes(tmp_path):
    path, images = lay_part(tmp_path / "boxes 상자", VAL)
    usual = load_coco(path, images)
    text = json.dumps(json.loads(path.read_text()), indent=1)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_coco(path, images).classes == usual.classes
    assert len(load_coco(path, images)) == len(usual)
