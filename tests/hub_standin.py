"""A small stand-in of the hub: the part of its HTTP API that fetching uses, on localhost.

with StandIn() as hub:
    hub.add("model", "owner/name", {"config.json": b"{}", ...})
    ...  # with HF_ENDPOINT set to hub.address
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_BYTES = 1000
"""Files from this size on are kept apart from git, as the hub does with large ones."""


SENT_TOGETHER = 2**14


@dataclass
class Repo:
    """One repository: its commits, newest last, each a full set of files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)


class StandIn:
    """Serves repositories from memory.

    Attributes:
        requests: method and path of every request. ranges: file and first byte of every transfer.
        sent: bytes of file content that went out, about.
        damaged: names of files that arrive with other content.
        breaks: by path, after how many bytes each next transfer is cut off.
        token: that opens gated repositories.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[tuple[str, int]] = []
        self.sent = 0
        self.breaks: dict[str, list[int]] = {}
        self.damaged: set[str] = set()
        self.token = "hf_stand_in"
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # readers leave
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(
        self,
        kind: str,
        repo: str,
        files: dict[str, bytes],
        gated: bool = False,
        branch: str = "main",
    ) -> str:
        """Commit files, which are all that the repository then has; returns the commit."""
        entry = self.repos.setdefault((kind, repo), Repo(gated=gated))
        text = repr((repo, sorted(files.items()), len(entry.commits)))
        commit = hashlib.sha1(text.encode()).hexdigest()
        entry.commits[commit] = files
        entry.branches[branch] = commit
        return commit

    def fetched(self) -> list[str]:
        """The names of the files that were transferred, in order."""
        return [
            p.split("/resolve/")[1].split("/", 1)[1]
            for m, p in self.requests
            if m == "GET" and "/resolve/" in p
        ]


def blob_id(content: bytes) -> str:
    """git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        api = re.fullmatch(
            r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path
        )
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api:
            kind, repo, what, revision = api.groups()
            found = self._find(kind, repo, revision or "main")
            if found is not None:
                commit, files = found
                listed = [self._entry(name, content) for name, content in files.items()]
                info = {"id": repo, "sha": commit, "siblings": [], "private": False, "tags": []}
                self._json(200, listed if what == "tree" else info)
        elif file:
            kind = "dataset" if file[1] else "model"
            found = self._find(kind, file[2], file[3], closed=True)
            if found is not None and file[4] not in found[1]:
                self._refuse(404, "EntryNotFound")
            elif found is not None:
                self._file(found[0], file[4], found[1][file[4]], body)
        else:
            self._refuse(404, "RepoNotFound")

    def _find(
        self, kind: str, repo: str, revision: str, closed: bool = False
    ) -> tuple[str, dict[str, bytes]] | None:
        entry = self.hub.repos.get((kind, repo))
        if entry is None:
            self._refuse(401, "RepoNotFound")
            return None
        if closed and entry.gated and self.hub.token not in self.headers.get("Authorization", ""):
            self._refuse(401, "GatedRepo")
            return None
        commit = entry.branches.get(revision, revision)
        if commit not in entry.commits:
            self._refuse(404, "RevisionNotFound")
            return None
        return commit, entry.commits[commit]

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content)}
        entry["oid"] = blob_id(content)
        if len(content) >= LFS_BYTES:
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
        return entry

    def _file(self, commit: str, name: str, content: bytes, body: bool) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        stop = int(asked[2]) + 1 if asked and asked[2] else len(content)
        large = len(content) >= LFS_BYTES
        etag = hashlib.sha256(content).hexdigest() if large else blob_id(content)
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(stop - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        self.hub.ranges.append((name, start))
        if name in self.hub.damaged:
            content = bytes(len(content))
        cuts = self.hub.breaks.get(name)
        if cuts:
            self._send(content[start:stop][: cuts.pop(0)])
            self.close_connection = True
            self.connection.close()
        else:
            self._send(content[start:stop])

    def _send(self, content: bytes) -> None:
        for i in range(0, len(content), SENT_TOGETHER):
            part = content[i : i + SENT_TOGETHER]
            try:
                self.wfile.write(part)
            except ConnectionError:  # the reader has had enough
                self.close_connection = True
                return
            self.hub.sent += len(part)

    def _json(self, status: int, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
