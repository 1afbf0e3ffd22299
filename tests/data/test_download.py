"""Downloads: whole or not at all, going on after a cut, and every refusal in one line."""

import re
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from aaconv.data import download, remote
from aaconv.data.cifar import load_cifar
from tests.data.cifar_archives import make_cifar, md5_hex
from tests.data.web import Handler, Server

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = md5_hex(CONTENT)


@pytest.fixture(autouse=True)
def _content(monkeypatch):
    monkeypatch.setattr(Server, "content", CONTENT)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data" / "file.tar.gz"


@pytest.fixture
def part(target):
    target.parent.mkdir()
    return target.with_name("file.tar.gz.part")


def only(target):
    """Whether ``target`` is whole and alone."""
    return target.read_bytes() == CONTENT and [*target.parent.iterdir()] == [target]


def test_whole_then_not_again(server, target):
    said = []
    assert download.fetch(server.url, target, MD5, say=said.append) == target
    assert only(target)
    assert server.asked == [None]
    download.fetch(server.url, str(target), MD5, say=said.append)
    assert server.asked == [None]
    assert said == [f"downloading {server.url} to {target}", f"{target} is there already"]


def test_another_file_in_its_place_is_named_and_kept(server, part, target):
    target.write_bytes(b"mine")
    with pytest.raises(ValueError, match=rf"{target} has md5 {md5_hex(b'mine')}, expected {MD5}; remove it"):
        download.fetch(server.url, target, MD5)
    assert target.read_bytes() == b"mine"
    assert server.asked == []


def test_what_is_there_is_gone_on_from(server, part, target):
    part.write_bytes(CONTENT[:1234])
    said = []
    download.fetch(server.url, target, MD5, say=said.append)
    assert only(target)
    assert server.asked == ["bytes=1234-"]
    assert said == [f"downloading {server.url} to {target}, from byte 1234 on"]


def test_a_download_that_was_cut_off_is_resumed_by_the_next(server, target, monkeypatch):
    monkeypatch.setattr(remote, "RETRIES", -1)
    server.cuts = [200_000]
    with pytest.raises(OSError, match=rf"{server.url} cannot be downloaded: .*cut at byte 200000 of 300000; the next"):
        download.fetch(server.url, target, MD5)
    assert not target.exists()
    download.fetch(server.url, target, MD5)
    assert only(target)
    assert server.asked == [None, "bytes=200000-"]


def test_dropped_connections_are_tried_again(server, target):
    server.cuts = [100_000, 0, 0, 0, 50_000, 0, 0, 0]
    said = []
    download.fetch(server.url, target, MD5, say=said.append)
    assert only(target)
    assert server.asked == [None, *["bytes=100000-"] * 4, *["bytes=150000-"] * 4]
    assert said[1] == "the connection was cut at byte 100000 of 300000; trying again"


def test_tries_that_bring_nothing_come_to_an_end(server, target):
    server.cuts = [100_000] + [0] * 50
    with pytest.raises(
        OSError, match=r"cut at byte 100000 of 300000; the next try goes on from byte 100000 in .*\.part$"
    ):
        download.fetch(server.url, target, MD5, say=str)
    assert len(server.asked) == 1 + 1 + remote.RETRIES


@pytest.mark.parametrize("cuts", [[], [100_000], [200_000, 100_000, 100_000]])
def test_a_server_without_range_begins_again(server, part, target, cuts):
    part.write_bytes(b"x" * 150_000)
    server.ranges, server.cuts = False, cuts
    download.fetch(server.url, target, MD5, say=str)
    assert only(target)


def test_a_server_without_range_that_always_cuts_comes_to_an_end(server, target):
    server.ranges, server.cuts = False, [100_000, 50_000] * 25
    with pytest.raises(OSError, match="cut at byte 100000 of"):
        download.fetch(server.url, target, MD5, say=str)
    assert len(server.asked) == 2 + remote.RETRIES


@pytest.mark.parametrize("present", [b"x" * 300_000, CONTENT + b"x", b"x" * 999_999])
def test_a_part_no_shorter_than_the_file_begins_again(server, part, target, present):
    part.write_bytes(present)
    download.fetch(server.url, target, MD5, say=str)
    assert only(target)
    assert server.asked == [f"bytes={len(present)}-", None]


def test_a_whole_part_needs_no_connection(part, target):
    part.write_bytes(CONTENT)
    download.fetch("http://127.0.0.1:9/", target, MD5)
    assert only(target)


def test_a_server_that_sends_another_part_begins_again(server, part, target):
    part.write_bytes(CONTENT[:1000])
    server.shift = 5
    download.fetch(server.url, target, MD5, say=str)
    assert only(target)
    assert server.asked == ["bytes=1000-", None]


def test_a_length_that_is_not_told(server, target):
    server.length = False
    download.fetch(server.url, target, MD5, say=str)
    assert only(target)


@pytest.mark.parametrize("present", [b"", b"x" * 10])
def test_a_wrong_hash_is_deleted(server, part, target, present):
    part.write_bytes(present)
    got = md5_hex(present + CONTENT[len(present) :])
    wanted = MD5 if present else "0" * 32
    with pytest.raises(
        ValueError, match=rf"{server.url} gave a file with md5 {got}, expected {wanted}; it was deleted"
    ):
        download.fetch(server.url, target, wanted)
    assert [*target.parent.iterdir()] == []


@pytest.mark.parametrize("status", [404, 416, 403])
def test_a_refusal_is_one_line(server, target, status):
    server.status = status
    with pytest.raises(OSError, match=rf"^{server.url} cannot be downloaded: {status} [A-Z].*$") as raised:
        download.fetch(server.url, target, MD5, say=str)
    assert "\n" not in str(raised.value)
    assert server.asked == [None]
    assert not target.exists()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, target, status):
    server.refusals, said = [status] * remote.RETRIES, []
    download.fetch(server.url, target, MD5, say=said.append)
    assert only(target)
    assert len(said) == 1 + remote.RETRIES
    assert all(re.fullmatch(rf"{status} [A-Z].*; trying again from the beginning", line) for line in said[1:])


def test_a_server_that_stays_busy_is_one_line(server, target):
    server.status = 503
    with pytest.raises(OSError, match=rf"^{server.url} cannot be downloaded: 503 Service Unavailable$"):
        download.fetch(server.url, target, MD5, say=str)
    assert len(server.asked) == 1 + remote.RETRIES
    assert [*target.parent.iterdir()] == []


def test_no_server_is_one_line(server, target):
    server.server_close()
    with pytest.raises(OSError, match=rf"^{server.url} cannot be downloaded: .*refused$"):
        download.fetch(server.url, target, MD5, say=str)


def test_silence_is_an_error(server, target, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", 0.05)
    monkeypatch.setattr(Handler, "do_GET", lambda self: threading.Event().wait(0.5))
    with pytest.raises(OSError, match="cannot be downloaded: timed out"):
        download.fetch(server.url, target, MD5, say=str)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_what_get_brings_can_be_loaded(server, tmp_path, name):
    path, archives = make_cifar(tmp_path, name)
    server.content = path.read_bytes()
    first, *others = archives[name]
    archives = {name: (replace(first, page=server.url.removesuffix("file.tar.gz")), *others)}
    got = download.get(name, tmp_path / "new", archives, say=str)
    assert got == tmp_path / "new" / path.name
    assert len(load_cifar(name, tmp_path / "new", archives=archives).train) == 20


def test_get_refuses_other_names(tmp_path):
    with pytest.raises(ValueError, match=r"name must be one of \['cifar10', 'cifar100'\], got 'cifar'; did you mean"):
        download.get("cifar", tmp_path)


def test_needs_no_torch():
    code = "import sys; import aaconv.data.download; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
