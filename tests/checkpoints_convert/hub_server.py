"""A stand-in for the Hugging Face hub on this machine, of as much as downloads and uploads ask for.

A repository that is made is public, and takes every file in one commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

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
def hub(repositories: dict[str, Repository], token: str | None = None) -> Iterator[str]:
    """Serves repositories by owner/name; yields the address for HF_ENDPOINT.

    Args:
        token: what uploads must bring.
    """

    class Handler(_Handler):
        repos = repositories
        wanted = token
        stored: ClassVar[dict[str, bytes]] = {}

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repos: dict[str, Repository]
    wanted: str | None
    stored: dict[str, bytes]

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if re.fullmatch(r"/api/models/[^/]+/[^/]+", path):
            path += "/revision/main"
        pattern = r"(?:/api/models)?/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)(?:/(.*))?"
        match = re.fullmatch(pattern, path)
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

    def do_POST(self) -> None:
        body, path = self._body(), self.path.partition("?")[0]
        name = "/".join(path.removeprefix("/api/models").split("/")[1:3]).removesuffix(".git")
        if self.headers["Authorization"] != f"Bearer {self.wanted}":
            self._answer(401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            is_new, page = name not in self.repos, f"http://{self.headers['Host']}"
            self.repos.setdefault(name, Repository())
            self._answer(200 if is_new else 409, _json({"url": f"{page}/{name}", "id": name}))
        elif path == "/api/validate-yaml":
            self._answer(200, _json({"errors": [], "warnings": []}))
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            large = [{**each, "uploadMode": _mode(each), "shouldIgnore": False} for each in files]
            self._answer(200, _json({"files": large}))
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [self._place(each) for each in json.loads(body)["objects"]]
            lfs = {"Content-Type": "application/vnd.git-lfs+json"}
            self._answer(200, _json({"transfer": "basic", "objects": objects}), **lfs)
        elif "/commit/" in path:
            self._commit(name, [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404)

    def do_PUT(self) -> None:
        content = self._body()
        self.stored[hashlib.sha256(content).hexdigest()] = content
        self._answer(200)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Where a large file is to be put."""
        address = f"http://{self.headers['Host']}/lfs/{asked['oid']}"
        return {**asked, "authenticated": True, "actions": {"upload": {"href": address}}}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.repos[name].files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
        self.repos[name].files = files
        page = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
        self._answer(200, _json({"success": True, "commitOid": COMMIT, "commitUrl": page}))

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


def _mode(file: Mapping[str, Any]) -> str:
    return "lfs" if file["path"].endswith(".safetensors") else "regular"


def _entry(path: str, content: bytes) -> dict[str, object]:
    digest, size = hashlib.sha256(content).hexdigest(), len(content)
    lfs = {"oid": digest, "size": size, "pointerSize": 130}
    return {"type": "file", "path": path, "size": size, "oid": digest[:40], "lfs": lfs}
