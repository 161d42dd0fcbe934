"""The server behind `jaxdet serve`: three fixed files, and questions about the image in a request.

It opens no path that a request names and keeps no file. A request must name this machine as its
host, so that no page elsewhere can reach it through a name of its own (DNS rebinding), and a
question must come from the page itself.
"""

from __future__ import annotations

import ipaddress
import json
import re
import sys
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from socket import AF_INET6
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jaxdet.errors import UserError
from jaxdet.flags import brief
from jaxdet.inference.explorer import Explorer

LARGEST_UPLOAD = 32 * 2**20
"""Bytes of an image's file."""

SIZE = re.compile("[0-9]{1,11}")

PATIENCE = 30
"""Seconds after which a client that sends nothing is given up."""

PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Answers with `explorer`, which is set before it serves."""

    daemon_threads = True
    explorer: Explorer

    def __init__(self, host: str, port: int):
        self.host = host
        if ":" in host:
            self.address_family = AF_INET6
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Of a client that went away, nothing is said."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def open_server(host: str, port: int) -> Server:
    """A server that holds its port.

    Args:
        port: 0 for any that is free.

    Raises:
        UserError: it cannot have it.
    """
    try:
        return Server(host, port)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"http://{host}:{port} cannot be served ({error}); give another --port or --host"
        ) from error


def is_own_host(header: str, host: str) -> bool:
    """Whether a request's Host is this machine by number, "localhost", or the name served at: no
    name that somebody else may let point here."""
    try:
        name = urlsplit(f"//{header}").hostname
    except ValueError:
        return False
    return name in ("localhost", host.lower()) or _is_number(name or "")


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version, server_version, sys_version = "HTTP/1.1", "jaxdet", ""
    timeout = PATIENCE
    server: Server

    def log_message(self, *_: Any) -> None:
        """Says nothing: the page does."""

    def parse_request(self) -> bool:
        """Whether there is something to answer; if not, that was said."""
        if not super().parse_request():
            return False
        try:
            self.url = urlsplit(self.path)
        except ValueError as error:
            self._fail(400, f"the address cannot be read ({error})")
            return False
        return True

    def do_GET(self) -> None:
        path = self.url.path
        if not is_own_host(self.headers.get("Host", ""), self.server.host):
            self._fail(403, "the page is at the address that jaxdet serve says")
        elif path == "/facts":
            self._answer(_json({**self.server.explorer.facts, "largest": LARGEST_UPLOAD}), JSON)
        elif path in PAGE:
            name, kind = PAGE[path]
            self._answer((files("jaxdet.inference") / "page" / name).read_bytes(), kind)
        else:
            self._fail(404, "there is nothing here")

    def do_POST(self) -> None:
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        size = self.headers.get("Content-Length", "")
        if not is_own_host(host, self.server.host) or origin not in (None, f"http://{host}"):
            self._fail(403, "questions come from the page that jaxdet serve says")
        elif self.url.path not in QUESTIONS:
            self._fail(404, "there is nothing here")
        elif "Transfer-Encoding" in self.headers or not SIZE.fullmatch(size):
            self._fail(411, "the image's size must be said")
        elif int(size) > LARGEST_UPLOAD:
            self._fail(413, f"the image must have at most {LARGEST_UPLOAD >> 20} MiB")
        else:
            content = self.rfile.read(int(size))
            if len(content) == int(size):
                self._reply(QUESTIONS[self.url.path], content, self.url.query)

    def _reply(self, question: Question, content: bytes, query: str) -> None:
        try:
            answer = question({name: values[-1] for name, values in parse_qs(query).items()})
        except (KeyError, ValueError) as error:
            self._fail(400, f"a question must have its numbers ({error})")
            return
        try:
            body, kind = answer(self.server.explorer, content)
        except UserError as error:
            self._fail(422, str(error))
        except Exception:
            traceback.print_exc()
            self._fail(500, "jaxdet failed; its terminal says how")
        else:
            self._answer(body, kind)

    def _fail(self, status: int, reason: str) -> None:
        self.close_connection = True  # what else was sent is not read
        self._answer(brief(reason).encode(), "text/plain; charset=utf-8", status)

    def _answer(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        closing = {"Connection": "close"} if self.close_connection else {}
        own = {"Content-Type": kind, "Content-Length": str(len(body)), **closing}
        for name, value in {**HEADERS, **own}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


JSON, PNG = "application/json", "image/png"

Answer = Callable[[Explorer, bytes], tuple[bytes, str]]
"""From an image's file: what is sent, and its media type."""

Question = Callable[[dict[str, str]], Answer]
"""From a question's numbers: KeyError or ValueError where they are not all there."""


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _detect(_: dict[str, str]) -> Answer:
    return lambda explorer, content: (_json(explorer.detections(content)), JSON)


def _draw(given: dict[str, str]) -> Answer:
    score = float(given["score"])
    return lambda explorer, content: (explorer.drawing(content, score), PNG)


def _attend(given: dict[str, str]) -> Answer:
    block, row, column = (int(given[name]) for name in ("block", "row", "column"))
    head = None if given["head"] == "mean" else int(given["head"])
    return lambda explorer, content: (explorer.attention(content, block, head, row, column), PNG)


def _pyramid(_: dict[str, str]) -> Answer:
    return lambda explorer, content: (explorer.pyramid(content), PNG)


QUESTIONS: dict[str, Question] = {
    "/detections": _detect,
    "/drawing": _draw,
    "/attention": _attend,
    "/pyramid": _pyramid,
}
