"""A small model hub on loopback: real HTTP, the answers a hub of Hugging Face gives, and its bad days.

Repositories are folders under a root, `OWNER/NAME/file`. What a test wants to go wrong it says by setting `Hub.trouble`
for a path that contains some text.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is served, to whom, and what goes wrong."""

    root: Path
    url: str = ""
    gated: set[str] = field(default_factory=set)
    """Repositories with a licence, which only `accepted` tokens may read."""
    private: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    """Tokens that are valid; any other is refused. () accepts all."""
    trouble: dict[str, str] = field(default_factory=dict)
    """Text in a path → what happens: 429, 503, slow, stall (half a file), cut (once), nonsense."""
    asked: list[str] = field(default_factory=list)
    """`METHOD path` of every request, in order."""
    starts: list[int] = field(default_factory=list)
    """The first byte of every range that was asked for, in order."""

    def put(self, repo: str, name: str, content: bytes | str) -> Path:
        file = self.root / repo / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def bodies(self) -> list[str]:
        """The paths of files whose bytes were asked for."""
        return [line.split()[1] for line in self.asked if line.startswith("GET") and "/resolve/" in line]


@contextmanager
def running(root: Path) -> Iterator[Hub]:
    """A hub that serves `root` until the block ends."""
    hub = Hub(root)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if self._bad_day(path):
            return
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            self._describe("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._refuse(404, "RepoNotFound")

    # --- what a hub answers -----------------------------------------------------------------------------------------

    def _may_read(self, repo: str, revision: str, *, file: bool) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and self.hub.known and token not in self.hub.known | self.hub.accepted:
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif not (self.hub.root / repo).is_dir() or (repo in self.hub.private and token not in self.hub.accepted):
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif file and repo in self.hub.gated and token not in self.hub.accepted:
            self._refuse(403 if token else 401, "GatedRepo", f"Access to model {repo} is restricted.")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return True
        return False

    def _describe(self, repo: str, revision: str) -> None:
        if not self._may_read(repo, revision, file=False):
            return
        folder = self.hub.root / repo
        names = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
        body: dict[str, Any] = {
            "_id": "0", "id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [],
            "gated": "manual" if repo in self.hub.gated else False,
            "siblings": [{"rfilename": name} for name in names],
        }  # fmt: skip
        self._answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, revision: str, name: str) -> None:
        if not self._may_read(repo, revision, file=True):
            return
        file = self.hub.root / repo / name
        if not file.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        content = file.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        headers = {
            "ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(content)),
            "X-Linked-ETag": f'"{tag}"', "Accept-Ranges": "bytes",
        }  # fmt: skip
        start = 0
        if (wanted := self.headers.get("Range")) is not None:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) if last else len(content) - 1
            self.hub.starts.append(start)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content = content[start : end + 1]
        self._answer(206 if wanted else 200, content, headers, half=self._half(f"{repo}/{name}"))

    def _refuse(self, status: int, code: str | None, message: str = "") -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._answer(status, message.encode(), headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, half: str = "") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2] if half else body)
        if half:
            self.wfile.flush()
            time.sleep(30 if half == "stall" else 0)
            self.close_connection = True

    # --- its bad days -----------------------------------------------------------------------------------------------

    def _trouble(self, path: str) -> str:
        return next((what for text, what in self.hub.trouble.items() if text in path), "")

    def _half(self, path: str) -> str:
        what = self._trouble(path)
        if what == "cut" and self.command == "GET":  # the line breaks once, then holds
            self.hub.trouble = {text: kind for text, kind in self.hub.trouble.items() if kind != "cut"}
        return what if what in ("cut", "stall") and self.command == "GET" else ""

    def _bad_day(self, path: str) -> bool:
        match self._trouble(path):
            case "429":
                self._answer(429, b"", {"Retry-After": "60"})
            case "503":
                self._answer(503, b"", {})
            case "slow":
                time.sleep(30)
            case "nonsense":
                self._answer(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
            case _:
                return False
        return True

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""
