"""A Hub of a few files on this machine, for what fetching does: sizes, checksums, ranges, refusals, a line that breaks."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 39 + "1"


@dataclass
class Hub:
    """`files` by "owner/name/path". `cut` breaks the next answer after so many bytes; `ranges` are the ranges asked for."""

    files: dict[str, bytes]
    gated: set[str] = field(default_factory=set)
    cut: int = 0
    lie: str = ""  # a checksum told instead of the true one
    ranges: list[str] = field(default_factory=list)
    address: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            owner, name, *rest = self.path.strip("/").split("/")
            repo, file = f"{owner}/{name}", "/".join(rest[2:] if rest[:1] == ["resolve"] else rest)
            data = hub.files.get(f"{repo}/{file}")
            if repo in hub.gated:
                return self.refuse(403, "GatedRepo")
            if not any(key.startswith(f"{repo}/") for key in hub.files):
                return self.refuse(401, "RepoNotFound")
            if data is None:
                return self.refuse(404, "EntryNotFound")
            asked, start = self.headers.get("Range", ""), 0
            if body:
                hub.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").partition("-")[0] or 0) if asked else 0
            self.send_response(206 if start else 200)
            digest = hub.lie or hashlib.sha256(data).hexdigest()
            for header, value in (("ETag", f'"{digest}"'), ("X-Repo-Commit", COMMIT), ("Content-Length", str(len(data) - start))):
                self.send_header(header, value)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if body:
                end, hub.cut = (start + hub.cut, 0) if hub.cut else (len(data), 0)
                self.wfile.write(data[start:end])
                self.close_connection = end < len(data)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
