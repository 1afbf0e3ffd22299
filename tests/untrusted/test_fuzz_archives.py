"""Ten thousand damaged shards and CIFAR archives: each is read or refused in a line that names it."""

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace

import pytest

from aaconv.data.cifar import ARCHIVES, load_cifar
from aaconv.data.images import ImageReadError
from aaconv.data.tars import count_samples, samples_of
from tests.data.cifar_archives import images_of, md5_hex, pickled
from tests.untrusted.damage import damaged
from tests.untrusted.guard import fuzz

COUNTS = pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.hard)])
MEMBERS = [
    ("a/1.jpg", b"first"),
    ("a/1.cls", b"1"),
    ("x" * 120 + "/2.png", b"second" * 99),
    ("x" * 120 + "/2.cls", b"2\n"),
]
WORDS = (
    b"ustar\0" b"00", b"ustar  \0", b"0", b"L", b"x", b"g", b"S", b"2", b"5", b"77777777777",
    b"\x80" + b"\xff" * 11, b"\xff" * 12, b"00000000000", b"20 path=../../a\n", b"30 GNU.sparse.major=1\n",
    b"20 size=99999999999\n", b"19 size=-999999999\n", b"12 mtime=inf\n", b"../../../a.jpg", b"/a.jpg", b".cls",
    b".jpg", b"\0" * 512,
)  # fmt: skip


def shards():
    """In every form and packing, the last with members that are no files or have holes."""
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        yield made("w", form)
    for packing in ("w:gz", "w:bz2", "w:xz"):
        yield made(packing, tarfile.GNU_FORMAT)
    odd = tarfile.TarInfo("a/1.jpg")
    odd.type, odd.linkname = tarfile.SYMTYPE, "../../a"
    sparse = tarfile.TarInfo("a/3.jpg")
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 10
    yield made("w", tarfile.GNU_FORMAT, odd, sparse)


def made(mode, form, *others):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as tar:
        for name, content in MEMBERS:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for entry in others:
            tar.addfile(entry, io.BytesIO(b"x" * 10))
    return file.getvalue().rstrip(b"\0") + b"\0" * 1024 if mode == "w" else file.getvalue()


def with_sums(content):
    """The headers with the checksums that they should have."""
    blocks = [bytearray(content[at : at + 512]) for at in range(0, len(content), 512)]
    for block in blocks:
        if len(block) == 512 and block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


@COUNTS
def test_shards(inside, seed, count):
    path, good = inside / "a.tar", list(shards())

    def make(number):
        path.write_bytes(damaged(good, number, words=WORDS, reseal=with_sums, seed=seed))

    def read(_):
        counted = count_samples([str(path)])
        samples = list(samples_of(str(path), 3))
        assert len(samples) <= counted
        assert sum(len(sample.content) for sample in samples) < 2**20

    found = fuzz(count, make, read, (ImageReadError,))
    assert min(found["accepted"], found["ImageReadError"]) > count / 10


OPCODES = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"(S'true'\ntR", b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"r\xff\xff\xff\x7f",
    b"\x96" + b"\xff" * 5 + b"\0" * 3, b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"\x82\x01", b"Pa\n", b"Q",
    b"R", b"b", b"\x81", b"\x92", b"o", b"i", b"(", b"0", b"1", b"2", b"t", b"d", b"l", b"}", b"]", b")", b".",
    b"h\0", b"q\0", b"N", b"\x93", b"\x94", b"\x97",
)  # fmt: skip


def cifar(*, binary=False):
    """The files of a CIFAR-100 of two images each, and the row that describes them."""
    row = ARCHIVES["cifar100"][binary]
    pixels, labels, coarse = images_of(2, 100, 0)
    names = [f"class_{i}" for i in range(100)]
    if binary:
        rows = b"".join(bytes([c, f]) + image.tobytes() for c, f, image in zip(coarse, labels, pixels, strict=True))
        return row, {"train.bin": rows, "test.bin": rows, "fine_label_names.txt": "\n".join(names).encode()}
    batch = pickled({"data": pixels, "fine_labels": labels, "coarse_labels": coarse, "filenames": ["a", "b"]})
    return row, {"train": batch, "test": batch, "meta": pickled({"fine_label_names": names})}


def vouched(row, files):
    """The row with the hashes that these files have: as if they were forged."""
    groups = ({name: md5_hex(files[name]) for name in group} for group in (row.train, row.test, row.meta))
    return dict(zip(("train", "test", "meta"), groups, strict=True))


@COUNTS
def test_files_of_cifar(inside, seed, count):
    """Hashes are right whatever the damage."""
    row, files = cifar()
    today = pickle.dumps(pickle.loads(files["train"], encoding="latin1"), protocol=4)
    good = {"train": [files["train"], today], "meta": [files["meta"]]}
    folder = inside / row.folder
    folder.mkdir()
    (folder / "test").write_bytes(files["test"])
    there = {}

    def make(number):
        name = ("train", "meta")[number % 4 == 3]
        spoilt = {**files, name: damaged(good[name], number, words=OPCODES, seed=seed)}
        for member in ("train", "meta"):
            if there.get(member) != spoilt[member]:
                (folder / member).write_bytes(spoilt[member])
        there.update(spoilt)
        return {"cifar100": (replace(row, **vouched(row, spoilt)),)}

    found = fuzz(count, make, lambda rows: load_cifar("cifar100", folder, archives=rows), (ValueError,))
    assert min(found["accepted"], found["ValueError"]) > count / 20


@COUNTS
def test_archives_of_cifar(inside, seed, count):
    row, files = cifar(binary=True)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{row.folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    path, good = inside / row.file, [file.getvalue()]

    def make(number):
        content = damaged(good, number, seed=seed)
        path.write_bytes(content)
        return {"cifar100": (replace(row, md5=hashlib.md5(content).hexdigest()),)}

    found = fuzz(count, make, lambda rows: load_cifar("cifar100", path, archives=rows), (ValueError,))
    assert found["accepted"] > 0
    assert found["ValueError"] > count / 2
