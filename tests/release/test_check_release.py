"""The check of what is published, on archives made by hand: each fault is found and named."""

import importlib
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

pytest.importorskip("packaging")

FOLDER = Path(__file__).parents[2] / "scripts"
FILES = {
    "__init__.py": '__version__ = "1.2.3"\n',
    "py.typed": "",
    "recipes/digits.yaml": "epochs: 1\n",
    "zoo/digits.safetensors": "weights",
    "zoo/digits.md": "a card",
    "explain/viewer.js": "//",
    "explain/__pycache__/look.pyc": "bytecode",
}
EXTRAS = "".join(f"Provides-Extra: {name}\n" for name in ("all", "app", "export", "train", "vision"))
METADATA = f"""Metadata-Version: 2.4
Name: aaconv
Version: 1.2.3
License-Expression: Apache-2.0
Requires-Dist: torch>=2.10
{EXTRAS}Description-Content-Type: text/markdown

# aaconv
"""
INFO = "aaconv-1.2.3.dist-info"


@pytest.fixture
def release(monkeypatch):
    """The program, which stands in no package."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "check_release", raising=False)
    return importlib.import_module("check_release")


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "aaconv"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def wheel_of(folder, name="aaconv-1.2.3-py3-none-any.whl", without=(), beside=(), metadata=METADATA):
    path = folder.parent / name
    held = {f"aaconv/{file}": text for file, text in FILES.items() if "__pycache__" not in file}
    held |= {f"{INFO}/METADATA": metadata, f"{INFO}/licenses/LICENSE": "Apache"} | dict.fromkeys(beside, "")
    with ZipFile(path, "w") as archive:
        for file, text in held.items():
            if file not in without:
                archive.writestr(file, text)
    return path


def test_a_whole_wheel_passes(release, package):
    release.check_wheel(wheel_of(package), package)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "aaconv-1.2.3-cp311-cp311-linux_x86_64.whl"}, "is not pure Python"),
        ({"without": ["aaconv/py.typed"]}, r"holds or lacks \['py.typed'\]"),
        ({"without": ["aaconv/zoo/digits.safetensors"]}, r"holds or lacks \['zoo/digits.safetensors'\]"),
        ({"beside": ["aaconv/runs/model.safetensors"]}, r"holds or lacks \['runs/model.safetensors'\]"),
        ({"beside": ["tests/test_cli.py"]}, r"holds \['tests'\] beside the package"),
        ({"without": [f"{INFO}/licenses/LICENSE"]}, "has no licence"),
        ({"metadata": METADATA.replace("1.2.3", "1.2.4")}, "metadata says version 1.2.4, the package 1.2.3"),
        ({"metadata": METADATA.replace("Provides-Extra: all\n", "")}, r"lacks the extras \['all'\]"),
        ({"metadata": METADATA.replace("Apache-2.0", "MIT")}, "metadata says licence MIT"),
        ({"metadata": METADATA.replace("markdown", "x-rst")}, "no description in Markdown, but text/x-rst"),
        ({"metadata": METADATA.replace("torch>=2.10", "torch>>2")}, "metadata: 'torch>>2' is invalid"),
        ({"metadata": METADATA.replace("torch>=2.10", "a @ file:///a.whl")}, "metadata asks for an address"),
    ],
)
def test_faults_of_a_wheel_are_named(release, package, changes, message):
    with pytest.raises(release.Wrong, match=message):
        release.check_wheel(wheel_of(package, **changes), package)


def test_what_both_lack_is_missed_too(release, package):
    (package / "explain/viewer.js").unlink()
    with pytest.raises(release.Wrong, match=r"lacks \['explain/viewer.js'\]"):
        release.check_wheel(wheel_of(package, without=["aaconv/explain/viewer.js"]), package)


def test_large_archives_are_refused(release, package, monkeypatch):
    monkeypatch.setattr(release, "LARGEST", 100)
    with pytest.raises(release.Wrong, match=r"has 0\.0 MiB"):
        release.check_wheel(wheel_of(package), package)


def test_sdist_holds_sources_alone(release, tmp_path):
    sdist = tmp_path / "aaconv-1.2.3.tar.gz"
    sdist.write_bytes(b"")
    top = ("src", "pyproject.toml", "PKG-INFO", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
    names = [f"aaconv-1.2.3/{name}" for name in top]
    release.check_sdist(sdist, [*names, "aaconv-1.2.3/src/aaconv/__init__.py", "aaconv-1.2.3/.gitignore"])
    for wrong, message in (([*names, "aaconv-1.2.3/runs/a"], "runs"), (names[:-1], "CITATION.cff")):
        with pytest.raises(release.Wrong, match=rf"holds or lacks \['{message}'\]"):
            release.check_sdist(sdist, wrong)


def test_failed_commands_say_what_they_said(release):
    with pytest.raises(release.Wrong, match="ended with 3:\nno space"):
        release.run(sys.executable, "-c", "print('no space'); raise SystemExit(3)")


def test_main_names_the_fault_and_exits_1(release, monkeypatch, tmp_path, capsys):
    def fail(folder, python):
        raise release.Wrong("two builds differ")

    monkeypatch.setattr(release, "check", fail)
    monkeypatch.setattr(sys, "argv", ["check_release.py", "--keep", str(tmp_path / "dist")])
    assert release.main() == 1
    assert capsys.readouterr().err == "release: two builds differ\n"
    assert not (tmp_path / "dist").exists()
