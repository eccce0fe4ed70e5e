"""Output files: whole or not at all."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from offhook.gateway.files import check_writable, write_whole


def test_text_and_bytes_are_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "Köln\n")
    write_whole(tmp_path / "b", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == "Köln\n".encode()
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a", "half \ud800")
    limited = "import resource, signal, sys; from offhook.gateway.files import write_whole;"
    limited += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9));"
    done = subprocess.run(
        [sys.executable, "-c", f"{limited} write_whole(sys.argv[1], b'x' * 99)", tmp_path / "a"], capture_output=True
    )
    assert b"File too large" in done.stderr
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_readers_file_is_never_half_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"0" * 1_000_000)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            write_whole(tmp_path / "a", b"1" * 1_000_000)

    writer = threading.Thread(target=write)
    writer.start()
    sizes = {len((tmp_path / "a").read_bytes()) for _ in range(200)}
    stop.set()
    writer.join()
    assert sizes == {1_000_000}


def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640


def test_a_pipe_is_written_directly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_whole(tmp_path / "pipe", "hello")
    reader.join(10)
    assert found == [b"hello"]


@pytest.mark.parametrize("path", ["nowhere/a", "folder"])
def test_an_unwritable_path_is_refused_early(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        check_writable(tmp_path / path)
    with pytest.raises(OSError):
        write_whole(tmp_path / path, "x")


def test_the_early_check_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    check_writable(tmp_path / "old")
    check_writable(tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


@pytest.mark.usefixtures("forked")
def test_a_port_in_use_leaves_no_certificate_file(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "offhook", "rehearsal-model", "--port", port, "--ca-out", tmp_path / "ca.pem"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "choose another --port" in done.stderr
    assert not list(tmp_path.iterdir())
