"""Shards as tar files: which samples they hold, and that none is lost unseen."""

import io
import os
import tarfile

import pytest

from aaconv.data import remote, tars
from aaconv.data.images import ImageReadError
from aaconv.data.tars import Sample, count_samples, expand, is_local, samples_of
from tests.data.pictures import make_tar, pair

MEMBERS = [member for i in range(4) for member in pair(f"a/{i}", bytes([i]) * 700, i % 3, "jpg")]


@pytest.fixture
def shard(tmp_path):
    """Four samples; the images are no images, which is of no matter here."""
    return make_tar(tmp_path / "s.tar", MEMBERS)


def read(path, classes=3):
    return list(samples_of(str(path), classes))


def wanted(where):
    return [Sample(f"{where}:a/{i}.jpg", bytes([i]) * 700, i % 3) for i in range(4)]


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{9..11}/x", ["9/x", "10/x", "11/x"]),
        ("{0..1}-{00..01}", ["0-00", "0-01", "1-00", "1-01"]),
        ("https://h/a-{3..3}.tar", ["https://h/a-3.tar"]),
        ("a-{b}.tar", ["a-{b}.tar"]),
    ],
)
def test_patterns(pattern, names):
    assert expand(pattern) == tuple(names)
    assert all(is_local(name) for name in names) == (not pattern.startswith("https"))


def test_patterns_count_upwards():
    with pytest.raises(ValueError, match=r"shards a-\{3\.\.1\}\.tar must count upwards, got 3\.\.1"):
        expand("a-{3..1}.tar")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_in_order(tmp_path, mode, form):
    with tarfile.open(tmp_path / "s.tar", mode, format=form) as tar:
        for name, content in [("long/" * 40, b""), *MEMBERS]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size = (tarfile.REGTYPE, len(content)) if content else (tarfile.DIRTYPE, 0)
            tar.addfile(entry, io.BytesIO(content))
    assert read(tmp_path / "s.tar") == wanted(tmp_path / "s.tar")
    assert count_samples([str(tmp_path / "s.tar")] * 2) == 8


def test_a_sample_is_two_neighbours_of_one_key(tmp_path):
    members = [
        ("1.cls", b"1"), ("1.json", b"{}"), ("1.PNG", b"first"),
        ("alone.jpg", b""), ("2.cls", b" 2\n"), ("2.jpeg", b"second"), ("2.txt", b""),
        ("3.cls", b"0"), ("4.jpg", b""), ("3.jpg", b"too late"),
        ("dir.with.dots/5.v2.jpg", b"third"), ("dir.with.dots/5.v2.cls", b"0"),
    ]  # fmt: skip
    path = make_tar(tmp_path / "s.tar", members)
    got = [(sample.content, sample.label) for sample in read(path)]
    assert got == [(b"first", 1), (b"second", 2), (b"third", 0)]


@pytest.mark.parametrize(
    "label, shown",
    [(b"3", "'3'"), (b"-1", "'-1'"), (b"1.0", "'1.0'"), (b"", "''"), (b"\xff", "'�'"), (b"9" * 5000, "'9{20}'")],
)
def test_labels_out_of_range_are_named(tmp_path, label, shown):
    path = make_tar(tmp_path / "s.tar", [*MEMBERS, ("x.jpg", b""), ("x.cls", label)])
    with pytest.raises(ImageReadError, match=rf"^{path}:x\.cls: a label must be 0 to 2, got {shown}$"):
        read(path)


def end_of(path):
    """Where the last member of a tar file ends."""
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    return last.offset_data + -(-last.size // 512) * 512


def test_a_cut_anywhere_is_an_error(shard):
    whole, end = shard.read_bytes(), end_of(shard)
    for size in range(0, end + 1, 256):
        shard.write_bytes(whole[:size])
        with pytest.raises(ImageReadError, match=rf"^shard {shard} cannot be read: [^\n]+$"):
            read(shard)
        with pytest.raises(ImageReadError, match=rf"^shard {shard} cannot be read: [^\n]+$"):
            count_samples([str(shard)])
    shard.write_bytes(whole[: end + 512])
    assert len(read(shard)) == 4


def test_a_damaged_header_is_no_end(shard):
    content = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        content[tar.getmembers()[4].offset + 3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ImageReadError, match="cannot be read: it is cut short or damaged: bad checksum"):
        read(shard)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n" * 500, b"\x1f\x8b\x08" + bytes(2000)])
def test_what_is_no_tar_file(tmp_path, content):
    (tmp_path / "s.tar").write_bytes(content)
    for use in (read, lambda path: count_samples([str(path)])):
        with pytest.raises(ImageReadError, match=rf"^shard {tmp_path}/s\.tar cannot be read: [^\n]+$"):
            use(tmp_path / "s.tar")


def test_a_missing_shard(tmp_path):
    with pytest.raises(ImageReadError, match=rf"shard {tmp_path}/s\.tar cannot be read: .*No such file"):
        read(tmp_path / "s.tar")


@pytest.mark.parametrize("members", [[], [("1.json", b"{}")], [("1.jpg", b""), ("2.cls", b"0")]])
def test_a_shard_without_samples_is_refused(tmp_path, members):
    path = make_tar(tmp_path / "s.tar", members)
    with pytest.raises(ImageReadError, match=rf"^shard {path} must hold pairs of KEY\.jpg .* and KEY\.cls, got none$"):
        read(path)


def test_names_need_not_be_utf8(tmp_path):
    path = make_tar(tmp_path / os.fsdecode(b"\xe9.tar"), pair(os.fsdecode(b"\xff"), b"", 7))
    with pytest.raises(ImageReadError, match=r"udce9\.tar:\\udcff\.cls: a label must be 0 to 2") as raised:
        read(path)
    assert str(raised.value).encode()  # can be written anywhere


@pytest.mark.parametrize("ranges", [True, False])
def test_remote_shards_survive_cuts(server, shard, ranges):
    whole = shard.read_bytes()
    url = server.url.replace("file.tar.gz", "s.tar")
    server.files, server.ranges = {"/s.tar": whole}, ranges
    server.cuts = [0, 100, 512 * 5, len(whole) - 600 if not ranges else 3000]
    assert read(url) == wanted(url)
    assert len(server.asked) == 5


@pytest.mark.parametrize("cuts", [[0] * 50, [512 * 5] + [0] * 50, [700] + [0] * 50])
def test_remote_shards_that_stay_cut_are_errors(server, shard, cuts):
    server.files, server.cuts = {"/file.tar.gz": shard.read_bytes()}, cuts
    with pytest.raises(
        ImageReadError, match=rf"^shard {server.url} cannot be read: the connection was cut at byte \d+"
    ):
        read(server.url)
    assert len(server.asked) in (1 + remote.RETRIES, 2 + remote.RETRIES)


def test_remote_shards_that_are_not_there_or_shorter_than_a_tar_file(server, shard):
    server.status = 404
    with pytest.raises(ImageReadError, match=rf"^shard {server.url} cannot be read: 404 Not Found$"):
        read(server.url)
    server.status, server.files = 200, {"/file.tar.gz": shard.read_bytes()[: 512 * 5]}  # a member ends here
    with pytest.raises(ImageReadError, match="cannot be read: it is cut short"):
        read(server.url)


def test_leaving_early_closes_the_file(shard, monkeypatch):
    with shard.open("rb") as file:
        monkeypatch.setattr(tars, "open", lambda *_: file, raising=False)
        samples = samples_of(str(shard), 3)
        next(samples)
        samples.close()
        assert file.closed
