"""A file from the web: an interrupted download goes on only with the same file, and every failure is one sentence with its cure."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fkv import hub

OLD, NEW = bytes(range(256)) * 4_000, bytes(reversed(range(256))) * 5_000


@dataclass
class Site:
    """One file by its published rules of ranges; `reset` breaks the line after so many bytes, `deaf` leaves If-Range unread."""

    data: bytes = OLD
    tag: str = '"old"'
    reset: int = 0
    deaf: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size, wanted, match = len(found.data), self.headers.get("Range", ""), self.headers.get("If-Range", "")
            found.asked.append((wanted, match))
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and (found.deaf or match in ("", found.tag)) else 0
            self.send_response(416 if start >= size else 206 if start else 200)
            if found.tag:
                self.send_header("ETag", found.tag)
            self.send_header("Content-Range", f"bytes */{size}" if start >= size else f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(max(0, size - start)))
            self.end_headers()
            end, found.reset = (start + found.reset if found.reset else size), 0
            with suppress(ConnectionError):  # who asked may have hung up
                self.wfile.write(found.data[start:end])
            if end < size:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}/model.bin"
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def interrupted(path: Path, held: bytes, tag: str) -> None:
    """What a killed download leaves behind."""
    path.with_name(path.name + ".part").write_bytes(held)
    if tag:
        path.with_name(path.name + ".part.tag").write_text(tag)


def test_a_reset_line_is_a_sentence_and_the_download_goes_on(site: Site, tmp_path: Path) -> None:
    path, site.reset = tmp_path / "model.bin", 500_000
    with pytest.raises(OSError, match=rf"^{site.url} .*; check the network, then try again: it goes on where it stopped$"):
        hub.fetch_url(site.url, path)
    held = path.with_name("model.bin.part").stat().st_size
    told: list[tuple[int, int]] = []
    assert hub.fetch_url(site.url, path, lambda file, done, total: told.append((done, total))).read_bytes() == OLD
    assert site.asked == [("", ""), (f"bytes={held}-", '"old"') if held else ("", "")]
    assert told[-1] == (len(OLD), len(OLD))
    assert [left.name for left in tmp_path.iterdir()] == ["model.bin"]


@pytest.mark.parametrize("held", [OLD, OLD + b"more"])
def test_a_complete_or_longer_part_left_by_a_killed_run_does_not_block_the_next(site: Site, tmp_path: Path, held: bytes) -> None:
    interrupted(tmp_path / "model.bin", held, '"old"')
    assert hub.fetch_url(site.url, tmp_path / "model.bin").read_bytes() == OLD


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("tag", ['"old"', ""])
def test_a_part_of_another_file_is_not_continued(site: Site, tmp_path: Path, tag: str, deaf: bool) -> None:
    site.data, site.tag, site.deaf = NEW, '"new"', deaf
    interrupted(tmp_path / "model.bin", OLD[:1000], tag)
    assert hub.fetch_url(site.url, tmp_path / "model.bin").read_bytes() == NEW


def test_from_a_server_that_gives_no_tag_it_starts_anew(site: Site, tmp_path: Path) -> None:
    site.tag, site.reset = "", 900_000
    with pytest.raises(OSError, match="check the network"):
        hub.fetch_url(site.url, tmp_path / "model.bin")
    assert hub.fetch_url(site.url, tmp_path / "model.bin").read_bytes() == OLD
    assert site.asked == [("", ""), ("", "")]


def test_a_folder_that_cannot_be_written_and_a_full_disk_are_sentences(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"model\.bin cannot be written \(.*\); free some room, or set HF_HOME to another folder"):
        hub.fetch_url(site.url, tmp_path / "file" / "model.bin")
    monkeypatch.setattr(hub, "SPARE", 1 << 60)
    with pytest.raises(OSError, match=r"^model\.bin needs 1\.0 MB and .* free; free some, or set HF_HOME to another disk$"):
        hub.fetch_url(site.url, tmp_path / "model.bin")
