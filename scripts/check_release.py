"""Build wheel and sdist, look into them, install them where nothing else is, and use them from there.

Run: python scripts/check_release.py [--python 3.12] [--keep FOLDER]

It installs what constraints.txt names and leaves nothing behind but what --keep asks for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

from packaging.metadata import ExceptionGroup, Metadata  # Python 3.10 has no such group of its own

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
PROGRAMS = Path(__file__).with_name("installed")  # what runs in the clean environments
EPOCH = "1577836800"  # archives hold this time, so that equal sources make equal bytes
SOURCES = (
    "src/aaconv",
    "pyproject.toml",
    ".gitignore",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CITATION.cff",
    "docs",
    "tests",
)
DATA = (".yaml", ".safetensors", ".md", ".j2", ".html", ".css", ".js", ".typed")
NEEDED = ("py.typed", "recipes/digits.yaml", "zoo/digits.safetensors", "zoo/digits.md", "explain/viewer.js")
EXTRAS = {"all", "app", "export", "train", "vision"}
LARGEST = 8 * 2**20  # bytes of an archive; the checkpoints take most of it
CLEAN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_CONSTRAINT")  # variables that would let other packages in


def main() -> int:
    """Check, say what is wrong, and keep the archives if asked; 1 if they must not be published."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="version or path to install for (default: this one)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="put the two archives there once all is well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aaconv-release-") as name:
        folder = Path(name)
        try:
            archives = check(folder, options.python)
        except Wrong as error:
            print(f"release: {error}", file=sys.stderr)
            return 1
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            for archive in archives:
                shutil.copy(archive, options.keep)
    return 0


class Wrong(Exception):
    """Something that must not be published; the message says what."""


def check(folder: Path, python: str) -> tuple[Path, Path]:
    """Everything, in the order in which it fails fastest; the archives."""
    for name in SOURCES:  # a copy, so that what changes meanwhile meets no build or all
        copy(ROOT / name, folder / "tree" / name)
    copy(folder / "tree", folder / "moved")
    wheel, sdist = build(folder / "first", folder / "tree")
    for one, two in zip((wheel, sdist), build(folder / "second", folder / "moved"), strict=True):
        expect(one.read_bytes() == two.read_bytes(), f"two builds of {one.name} differ")
    with tarfile.open(sdist) as source:
        source.extractall(folder / "source", filter="data")
        names = [member.name for member in source.getmembers()]
    again, _ = build(folder / "again", next((folder / "source").iterdir()))
    expect(names_in(again) == names_in(wheel), "a wheel built from the sdist holds other files")
    check_wheel(wheel, folder / "tree/src/aaconv")
    check_sdist(sdist, names)
    say(f"{wheel.name} {size(wheel)}, {sdist.name} {size(sdist)}: contents, metadata, equal bytes in two builds")
    check_installed(folder / "plain", wheel, python, "layer", types=True)
    check_installed(folder / "from-source", sdist, python, "import")
    check_installed(folder / "all", f"{wheel}[all]", python, "everything")
    return wheel, sdist


def expect(right: bool, message: str) -> None:
    """Raise Wrong with ``message`` unless it is ``right``."""
    if not right:
        raise Wrong(message)


def copy(source: Path, target: Path) -> None:
    """Of a file or folder, without what Python leaves behind."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def build(out: Path, source: Path) -> tuple[Path, Path]:
    """Wheel and sdist of ``source``."""
    pins = ("--build-constraints", ROOT / "constraints.txt")
    run(UV, "build", "--quiet", "--wheel", "--sdist", *pins, "--out-dir", out, source)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def names_in(wheel: Path) -> set[str]:
    """Names of the files in a wheel."""
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def check_wheel(wheel: Path, package: Path) -> None:
    """Pure Python, the files of ``package`` and no others, metadata that holds.

    Raises:
        Wrong: It is otherwise.
    """
    names = names_in(wheel)
    expect(wheel.name.endswith("-py3-none-any.whl"), f"{wheel.name} is not pure Python")
    expect(wheel.stat().st_size <= LARGEST, f"{wheel.name} has {size(wheel)}")
    held = {name.removeprefix("aaconv/") for name in names if name.startswith("aaconv/")}
    files = (path for path in package.rglob("*") if path.suffix in (".py", *DATA) and "__pycache__" not in path.parts)
    wanted = {path.relative_to(package).as_posix() for path in files}
    expect(held == wanted, f"{wheel.name} holds or lacks {sorted(held ^ wanted)}")
    expect(held >= set(NEEDED), f"{wheel.name} lacks {sorted(set(NEEDED) - held)}")
    other = {name.split("/")[0] for name in names} - {"aaconv"}
    version = wheel.name.split("-")[1]
    described = f"aaconv-{version}.dist-info"
    expect(other == {described}, f"{wheel.name} holds {sorted(other - {described})} beside the package")
    expect(f"{described}/licenses/LICENSE" in names, f"{wheel.name} has no licence")
    with ZipFile(wheel) as archive:
        check_metadata(archive.read(f"{described}/METADATA"), version_of(package))


def version_of(package: Path) -> str:
    """The version as the package states it."""
    lines = (package / "__init__.py").read_text(encoding="utf-8").splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("__version__"))


def check_metadata(raw: bytes, version: str) -> None:
    """Valid by the rules of core metadata, of this version, with our extras and a description that pages can show.

    Raises:
        Wrong: It is otherwise.
    """
    try:
        found = Metadata.from_email(raw, validate=True)
    except ExceptionGroup as group:
        raise Wrong(f"metadata: {'; '.join(map(str, group.exceptions))}") from group
    expect(str(found.version) == version, f"metadata says version {found.version}, the package {version}")
    lacking = EXTRAS - set(found.provides_extra or ())
    expect(not lacking, f"metadata lacks the extras {sorted(lacking)}")
    expect(found.license_expression == "Apache-2.0", f"metadata says licence {found.license_expression}")
    kind = BytesParser().parsebytes(raw)["Description-Content-Type"]
    expect(kind == "text/markdown" and bool(found.description), f"metadata has no description in Markdown, but {kind}")
    for requirement in found.requires_dist or ():
        expect(not requirement.url, f"metadata asks for an address: {requirement}")


def check_sdist(sdist: Path, names: Sequence[str]) -> None:
    """Sources and what building them needs, and no more.

    Raises:
        Wrong: It is otherwise.
    """
    expect(sdist.stat().st_size <= LARGEST, f"{sdist.name} has {size(sdist)}")
    top = {name.split("/")[1] for name in names if name.count("/")}
    wanted = {"src", "pyproject.toml", "PKG-INFO", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}
    expect(top - {".gitignore"} == wanted, f"{sdist.name} holds or lacks {sorted(top - {'.gitignore'} ^ wanted)}")


def check_installed(folder: Path, what: object, python: str, use: str, types: bool = False) -> None:
    """``what`` in a fresh environment: dependencies that agree, then use it from a folder of its own."""
    started = time.monotonic()
    elsewhere, environment = folder / "elsewhere", folder / "environment"
    elsewhere.mkdir(parents=True)
    run(UV, "venv", "--quiet", "--no-project", "--python", python, environment)
    inside = environment / "bin" / "python"
    pins = ("--constraints", ROOT / "constraints.txt", "--build-constraints", ROOT / "constraints.txt")
    run(UV, "pip", "install", "--quiet", "--python", inside, *pins, what)
    run(UV, "pip", "check", "--quiet", "--python", inside)
    run(inside, "-I", PROGRAMS / "use.py", version_of(ROOT / "src/aaconv"), use, cwd=elsewhere)
    if types:
        check_types(elsewhere, inside)
    say(f"{Path(str(what)).name}: installed and used, {time.monotonic() - started:.0f} s")


def check_types(folder: Path, python: Path) -> None:
    """A user's type checker sees our types: it takes a right program, and finds each mistake of a wrong one."""
    command = (sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", python)
    for name in ("typed_right.py", "typed_wrong.py"):
        shutil.copy(PROGRAMS / name, folder)
    run(*command, "typed_right.py", cwd=folder)
    lines = (folder / "typed_wrong.py").read_text(encoding="utf-8").splitlines()
    marked = {f"typed_wrong.py:{number}" for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    done = subprocess.run([*command, "typed_wrong.py"], cwd=folder, env=surroundings(), capture_output=True, text=True)
    said = {line.split(": error")[0] for line in done.stdout.splitlines() if ": error" in line}
    expect(said == marked, f"mypy should find mistakes at {sorted(marked)}: {done.stdout}{done.stderr}")


def surroundings() -> dict[str, str]:
    """The environment of every command: nothing that lets other packages in, and one time for all archives."""
    return {name: value for name, value in os.environ.items() if name not in CLEAN} | {"SOURCE_DATE_EPOCH": EPOCH}


def run(*command: object, cwd: Path = ROOT) -> str:
    """What a command prints.

    Raises:
        Wrong: It failed; with what it said.
    """
    words = list(map(str, command))
    done = subprocess.run(words, cwd=cwd, env=surroundings(), capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def size(path: Path) -> str:
    """Of a file, for people."""
    return f"{path.stat().st_size / 2**20:.1f} MiB"


def say(message: str) -> None:
    """Tell how far it is."""
    print(f"release: {message}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
