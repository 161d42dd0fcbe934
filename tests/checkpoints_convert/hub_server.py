"""A stand-in for the Hugging Face hub on this machine, of as much as a download asks for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """Files by name, and what is wrong with them.

    Attributes:
        status: what every request is answered with, and the hub's word for it.
        served: of files by name, other bytes than those whose size and SHA-256 are told.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    status: tuple[int, str] | None = None
    served: Mapping[str, bytes] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main", COMMIT)


@contextmanager
def hub(repositories: Mapping[str, Repository]) -> Iterator[str]:
    """Serves repositories by owner/name; yields the address for HF_ENDPOINT."""

    class Handler(_Handler):
        repos = repositories

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repos: Mapping[str, Repository]

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        pattern = r"(?:/api/models)?/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)(?:/(.*))?"
        match = re.fullmatch(pattern, self.path.partition("?")[0])
        if match is None:
            self._answer(404)
            return
        name, kind, revision, file = match.groups()
        repo = self.repos.get(name, Repository(status=(404, "RepoNotFound")))
        if repo.status is not None:
            self._answer(repo.status[0], **{"X-Error-Code": repo.status[1]})
        elif revision not in repo.revisions:
            self._answer(404, **{"X-Error-Code": "RevisionNotFound"})
        elif kind == "revision":
            siblings = [{"rfilename": each} for each in repo.files]
            self._answer(200, _json({"id": name, "sha": COMMIT, "siblings": siblings}))
        elif kind == "tree":
            self._answer(200, _json([_entry(*each) for each in repo.files.items()]))
        elif file not in repo.files:
            self._answer(404, **{"X-Error-Code": "EntryNotFound"})
        else:
            self._send_file(repo.files[file], repo.served.get(file))

    def _send_file(self, promised: bytes, served: bytes | None) -> None:
        digest = f'"{hashlib.sha256(promised).hexdigest()}"'
        headers = {"ETag": digest, "X-Linked-Etag": digest, "X-Linked-Size": str(len(promised))}
        is_head = self.command == "HEAD"
        body = promised if served is None or is_head else served
        self._answer(200, body, **{"X-Repo-Commit": COMMIT}, **headers)

    def _answer(self, status: int, body: bytes = b"{}", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _entry(path: str, content: bytes) -> dict[str, object]:
    digest, size = hashlib.sha256(content).hexdigest(), len(content)
    lfs = {"oid": digest, "size": size, "pointerSize": 130}
    return {"type": "file", "path": path, "size": size, "oid": digest[:40], "lfs": lfs}
