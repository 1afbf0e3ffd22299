"""Files appear whole or not at all; what killed processes left goes; links and devices stay what they are."""

import errno
import os
import socket
import subprocess
import sys
import threading

import pytest

from aaconv._files import MARK, beside, remove_unfinished, write_text, write_whole


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def left_by(folder, process, host=None, name="page.html"):
    path = folder / f".{name}.{MARK}.{host or socket.gethostname()}.{process}.0123abcd"
    path.write_text("half")
    return path


def test_what_dead_processes_left_is_removed_by_the_next_writer(tmp_path, dead):
    folder = tmp_path / "run"
    folder.mkdir()
    gone = [left_by(folder, dead), left_by(folder, dead, name="of\nanother [name].csv")]
    kept = [left_by(folder, os.getppid()), left_by(folder, dead, host="elsewhere"), folder / f".x.{MARK}.text"]
    kept[-1].write_text("somebody's own")
    write_text(folder / "page.html", "whole")
    assert not [path for path in gone if path.exists()]
    assert all(path.exists() for path in kept)
    remove_unfinished(folder, all_processes=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["page.html", kept[-1].name])


def test_unfinished_folders_are_removed_too(tmp_path, dead):
    inner = left_by(tmp_path, dead).with_suffix(".0123abce")
    inner.mkdir()
    (inner / "half").touch()
    remove_unfinished(tmp_path)
    assert not list(tmp_path.iterdir())
    remove_unfinished(tmp_path / "none")


@pytest.mark.parametrize("name", ["x" * 251 + ".csv", "한" * 83 + ".csv", "-", "a b.csv"])
def test_names_of_any_length(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_pipes_are_written_to_and_not_replaced(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "text")
    reader.join()
    assert got == ["text"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_errors_name_the_file_that_was_asked_for(tmp_path, number):
    def write(path):
        path.write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=rf"{os.strerror(number)}: '.*page\.html'$") as raised:
        write_whole(tmp_path / "page.html", write)
    assert raised.value.errno == number
    assert not list(tmp_path.iterdir())


def test_bytes_that_are_no_text_are_escaped(tmp_path):
    write_text(tmp_path / "a", "\udced한")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "\\udced한"


def test_unfinished_files_tell_their_process(tmp_path):
    names = {beside(tmp_path / "last.ckpt").name for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith(f".last.ckpt.{MARK}.{socket.gethostname()}.{os.getpid()}.") for name in names)
