"""Files that somebody made to do harm: small ones that ask for much memory, and pickles that call things."""

import io
import json
import pickle
import struct
import tarfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from aaconv.data.cifar import load_cifar
from aaconv.data.images import ImageReadError, read_image
from aaconv.data.plain_pickle import read_plain
from aaconv.data.tars import count_samples, expand, samples_of
from aaconv.surgery import Report
from aaconv.tables import read_results
from aaconv.training.recipes import load_recipe
from tests.data.pictures import make_tar, pair, saved
from tests.untrusted.guard import guarded
from tests.untrusted.test_fuzz_archives import cifar, vouched, with_sums

ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\1btR"
PICKLES = {  # what it holds as data, and what is said of it
    "system": (b"cos\nsystem\n(U\x04truetR", "it asks for os.system"),
    "eval": (b"cbuiltins\neval\n(U\x011tR", "it asks for builtins.eval"),
    "old name": (b"c__builtin__\neval\n(U\x011tR", "it asks for __builtin__.eval"),
    "attribute of an attribute": (b"\x8c\x05numpy\x8c\x10ndarray.__init__\x93", "it asks for numpy.ndarray.__init__"),
    "import": (b"cnumpy.testing\nrundocs\n)R", "it asks for numpy.testing.rundocs"),
    "instance": (b"(ios\nsystem\n", r"it has the operation b'i'"),
    "object": (b"(cnumpy\ndtype\no", r"it has the operation b'o'"),
    "new object": (b"cnumpy\ndtype\n)\x81", r"it has the operation b'\\x81'"),
    "extension": (b"\x82\x01", r"it has the operation b'\\x82'"),
    "persistent": (b"Pa\n", "it has the operation b'P'"),
    "bytes to come": (b"\x96" + struct.pack("<Q", 2**40), r"it has the operation b'\\x96'"),
    "far place": (b"Nr\xff\xff\xff\x7f", "must hold images as"),
    "long text": (b"X\xff\xff\xff\x7fabc", "cannot be read"),
    "wide array": (ARRAY + b"(K\1(\x8a\x06\0\0\0\0\0\1K\1tcnumpy\ndtype\n(U\x02u1tRI00\nU\1atb", "cannot reshape"),
    "array of objects": (ARRAY + b"(K\1(K\1tcnumpy\ndtype\n(U\x02O8tRI00\n(lNatb", "an array of 'O8', no numbers"),
    "array of records": (b"cnumpy\ndtype\n((lU\1aU\2u1\x86atR", "cannot be read"),
    "kind of array": (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(K\0tU\1btR", "a kind of its own"),
    "encoding": (b"c_codecs\nencode\n(U\1aU\x03bz2tR", "it encodes as 'bz2'"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(tmp_path, name):
    """Hashes are right, as if they were forged."""
    harm, said = PICKLES[name]
    row, files = cifar()
    files["train"] = b"\x80\x02}(U\x04data" + harm + b"U\x0bfine_labels](K\0K\1eu."
    (tmp_path / row.folder).mkdir()
    for member, content in files.items():
        (tmp_path / row.folder / member).write_bytes(content)
    rows = {"cifar100": (replace(row, **vouched(row, files)),)}
    with guarded(name), pytest.raises(ValueError, match=f"train of .*{said}"):
        load_cifar("cifar100", tmp_path, archives=rows)


def test_names_that_hold_themselves_many_times_over(tmp_path):
    row, files = cifar()
    names = ["a"]
    for _ in range(60):
        names = [names, names]
    files["meta"] = pickle.dumps({"fine_label_names": names}, 2)
    (tmp_path / row.folder).mkdir()
    for member, content in files.items():
        (tmp_path / row.folder / member).write_bytes(content)
    with guarded("names"), pytest.raises(ValueError, match="must hold a list of class names, got"):
        load_cifar("cifar100", tmp_path, archives={"cifar100": (replace(row, **vouched(row, files)),)})


def test_plain_pickles_hold_what_pickle_finds():
    found = {
        "a": [1, -2, 2**40, 0.5, None, True, "ü", b"\xff", (1, (2,)), {}],
        "b": {"c": [[]]},
        "d": np.arange(6.0).reshape(2, 3),
    }
    for protocol in (0, 1, 2, 3, 4):
        got = read_plain(pickle.dumps(found, protocol))
        np.testing.assert_array_equal(got.pop("d"), found["d"])
        assert got == {name: value for name, value in found.items() if name != "d"}
    big_endian = read_plain(pickle.dumps({"d": np.arange(3, dtype=">i4")}, 2))["d"]
    assert big_endian.tolist() == [0, 1, 2]


HEADERS = {  # type, size as written, what is said
    "name of gigabytes": (b"L", b"77777777777\0", "a header claims 8,589,934,591 bytes"),
    "notes of gigabytes": (b"x", b"77777777777\0", "a header claims"),
    "less than nothing": (b"0", b"\xff" * 12, "a header claims -1 bytes"),
    "more than all disks": (b"0", b"\x80" + b"\x7f" * 11, "a header claims"),
    "holes": (b"S", b"77777777777\0", "bytes or holes"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_shards(tmp_path, name):
    kind, size, said = HEADERS[name]
    path = make_tar(tmp_path / "s.tar", [("z.jpg", b"x"), *pair("a", b"x", 0)])
    content = bytearray(path.read_bytes())
    content[124:136], content[156:157] = size, kind
    if kind == b"S":  # a terabyte of which nothing is there
        content[257:265] = b"ustar  \0"
        content[386:482] = bytes(96)
        content[483:495] = b"17777777777\0"
        content[124:136] = b"00000000000\0"
    path.write_bytes(with_sums(bytes(content)))
    with guarded(name), pytest.raises(ImageReadError, match=f"s.tar cannot be read: .*{said}"):
        list(samples_of(str(path), 3))
    if kind != b"S":
        with guarded(name), pytest.raises(ImageReadError, match=f"s.tar cannot be read: .*{said}"):
            count_samples([str(path)])


def test_packed_shards_give_samples_of_a_limited_size(tmp_path, monkeypatch):
    monkeypatch.setattr("aaconv.data.tars.MAX_BYTES", 2**20)
    other = make_tar(tmp_path / "o.tar", [("a.json", bytes(2**22)), *pair("a", b"x", 0)], "w:gz")
    with guarded("others are passed over", room=2**27):
        assert len(list(samples_of(str(other), 3))) == 1
    large = make_tar(tmp_path / "l.tar", pair("a", bytes(2**20 + 1), 0), "w:gz")
    with pytest.raises(ImageReadError, match=r"member a\.png has 1,048,577 bytes or holes, the limit is 1,048,576"):
        list(samples_of(str(large), 3))


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_packed_shards_damaged_inside(tmp_path, mode):
    noise = np.random.default_rng(0).bytes(200_000)
    path = make_tar(tmp_path / "s.tar", [*pair("a", noise, 0), *pair("b", noise, 1)], mode)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=r"s\.tar cannot be read: "):
        count_samples([str(path)])


@pytest.mark.parametrize("pattern", ["{0..99999999999}", "{0..9999}{0..9999}", "{0.." + "9" * 30 + "}"])
def test_patterns_of_too_many_shards(pattern):
    with guarded(pattern), pytest.raises(ValueError, match=r"shards .* must (be at most 1,000,000|count in numbers)"):
        expand(pattern)


def chunk(name, content, size=None):
    body = name + content
    return struct.pack(">I", len(content) if size is None else size) + body + struct.pack(">I", zlib.crc32(body))


def test_a_chunk_that_claims_gigabytes(tmp_path):
    whole = saved(Image.new("L", (4, 4)))
    at = whole.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :])
    with guarded("chunk", room=2**28):  # it is read, as other readers do
        assert read_image(tmp_path / "a.png", 1, 4).shape == (1, 4, 4)


def test_notes_that_unpack_to_gigabytes(tmp_path):
    whole = saved(Image.new("L", (4, 4)))
    note = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**28)))
    (tmp_path / "a.png").write_bytes(whole[:33] + note + whole[33:])
    with guarded("note", room=2**27), pytest.raises(ImageReadError, match=r"a\.png: "):
        read_image(tmp_path / "a.png", 1, 4)


def test_a_profile_without_an_end(tmp_path):
    whole = saved(Image.new("L", (4, 4)))
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk(b"iCCP", b"a") + whole[33:])
    try:
        read_image(tmp_path / "a.png", 1, 4)
    except ImageReadError as error:
        assert "a.png: " in str(error)  # noqa: PT017


@pytest.mark.parametrize("form", ["EPS", "GIF", "TIFF", "BMP", "WEBP", "TGA"])
def test_only_png_and_jpeg_are_read_whatever_their_name(tmp_path, form):
    """Pillow starts a program to read EPS."""
    (tmp_path / "a.png").write_bytes(saved(Image.new("RGB", (4, 4)), form))
    with guarded(form), pytest.raises(ImageReadError, match=r"a\.png: not an image that can be read \(PNG or JPEG\)"):
        read_image(tmp_path / "a.png", 3, 4)


def test_files_of_more_bytes_than_pixels_take(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(saved(Image.new("L", (4, 4))))
    monkeypatch.setattr("aaconv.data.images.MAX_BYTES", 20)
    with pytest.raises(ImageReadError, match=r"a\.png: \d+ bytes, more than 20"):
        read_image(tmp_path / "a.png", 1, 4)


RECIPES = {
    "number without digits": "seed: 0b_\n",
    "hours that are no number": "ema_decay: 1" + ":1" * 200 + ".5\n",
    "number of thousands of digits": f"seed: {'9' * 5000}\n",
    "date that is none": "data: {path: 2024-02-30, name: nothing}\n",
    "depth": "[" * 5000,
    "class in a text": "model: {options: '{class_path: os.system}'}\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(tmp_path, name):
    (tmp_path / "r.yaml").write_text(RECIPES[name])
    with guarded(name), pytest.raises(ValueError, match=r"recipe .*r\.yaml"):
        load_recipe(tmp_path / "r.yaml")


def test_results(tmp_path):
    path = tmp_path / "r.csv"
    for content, said in {
        b"model,top1\n" + b"x" * 200_000: "field larger than field limit",
        b"model,top1\n\xff": "can't decode",
        b"model,top1\naa_resnet50,1\naa_resnet50,2\n": "aa_resnet50 is given twice",
        b"model,top1\n" + b"#" * 1_000_000: "must be at most 1000000 bytes, got 1000011",
    }.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"r\.csv.*{said}"):
            read_results(path)


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5000, "[1]", '{"replaced": [[]]}'])
def test_reports(content):
    with pytest.raises(ValueError, match=r"^text must be what Report\.to_json wrote: "):
        Report.from_json(content)


@pytest.mark.parametrize(
    "change", [{"grid": [0, 7]}, {"pool": 1.5}, {"num_heads": "4"}, {"gflops": [1]}, {"name": None}]
)
def test_rows_of_reports(change):
    row = {
        "name": "a", "grid": [7, 7], "pool": 1, "key_channels": 8, "value_channels": 8, "num_heads": 4,
        "parameters": [1, 2], "gflops": [1, 2], "memory_mb": [1, 2],
    }  # fmt: skip
    report = {"image_size": [32, 32], "position": "relative", "replaced": [row], "skipped": []}
    assert Report.from_json(json.dumps(report)).replaced[0].grid == (7, 7)
    report["replaced"] = [{**row, **change}]
    with pytest.raises(ValueError, match=r"^text must be what Report\.to_json wrote: "):
        Report.from_json(json.dumps(report))


def test_archives_of_cifar_write_nothing_anywhere(tmp_path):
    """Members that lead out of the archive are not even looked at."""
    row, files = cifar(binary=True)
    path = tmp_path / row.file
    with tarfile.open(path, "w:gz") as tar:
        for name in ("../../escaped", "/tmp/escaped", f"{row.folder}/../../escaped"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
        link = tarfile.TarInfo(f"{row.folder}/test.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name in ("train.bin", "fine_label_names.txt"):
            entry = tarfile.TarInfo(f"{row.folder}/{name}")
            entry.size = len(files[name])
            tar.addfile(entry, io.BytesIO(files[name]))
    from tests.data.cifar_archives import md5_hex

    rows = {"cifar100": (replace(row, md5=md5_hex(path.read_bytes())),)}
    with guarded("archive"), pytest.raises(ValueError, match=r"got no test\.bin"):
        load_cifar("cifar100", path, archives=rows)
