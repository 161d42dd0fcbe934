"""The server of the page, with a stand-in for what answers: who may ask, and for what."""

from __future__ import annotations

import http.client
import json
import socket
import threading

import pytest

from jaxdet.errors import UserError
from jaxdet.inference import page_server
from jaxdet.inference.page_server import is_own_host, open_server


class Explorer:
    """Says what it was asked."""

    facts = {"name": "tiny"}  # noqa: RUF012

    def detections(self, content):
        if content == b"bad":
            raise UserError("the file must be an image\n")
        if content == b"broken":
            raise KeyError("a secret")
        return {"found": len(content)}

    def drawing(self, content, score):
        return f"{content.decode()} {score}".encode()

    def attention(self, content, block, head, row, column):
        return f"{block} {head} {row} {column}".encode()

    def pyramid(self, content):
        return content


@pytest.fixture(scope="module")
def server():
    with open_server("127.0.0.1", 0) as server:
        server.explorer = Explorer()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def ask(server):
    """A request's status, headers and body."""

    def request(method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        found = response.status, response.headers, response.read()
        connection.close()
        return found

    return request


@pytest.mark.parametrize(
    ("path", "kind", "start"),
    [
        ("/", "text/html", b"<!doctype html>"),
        ("/page.css", "text/css", b":root"),
        ("/page.js?x=1", "text/javascript", b'"use strict"'),
    ],
)
def test_the_page_is_three_files(ask, path, kind, start):
    status, headers, body = ask("GET", path)
    assert status == 200
    assert headers["Content-Type"].startswith(kind)
    assert body.startswith(start)
    assert "default-src 'none'; script-src 'self';" in headers["Content-Security-Policy"]
    assert "python" not in headers["Server"].lower()


@pytest.mark.parametrize(
    "path", ["/page.html", "/../page.html", "//etc/passwd", "/page/", "/%2e%2e/page.css", "/setup"]
)
def test_no_path_is_opened(ask, path):
    assert ask("GET", path)[0] == 404
    assert ask("POST", path, b"x")[0] == 404


def test_an_address_that_cannot_be_read_is_one_sentence(ask, server, capsys):
    for method in ("GET", "POST"):
        status, _, body = ask(method, "http://[/", b"x", Host="evil.example")
        assert (status, body) == (400, b"the address cannot be read (Invalid IPv6 URL)")
    assert ask("GET", "//[")[0] in (400, 404)  # Python itself may make "/[" of it
    assert not capsys.readouterr().err


def test_the_page_learns_what_it_must_know(ask):
    assert json.loads(ask("GET", "/facts")[2]) == {**Explorer.facts, "largest": 32 * 2**20}


def test_questions_are_answered(ask):
    assert json.loads(ask("POST", "/detections", b"four")[2]) == {"found": 4}
    assert ask("POST", "/drawing?score=0.5", b"image")[2] == b"image 0.5"
    where = "/attention?block=1&row=2&column=3&head="
    assert ask("POST", f"{where}mean", b"image")[2] == b"1 None 2 3"
    assert ask("POST", f"{where}0", b"image")[2] == b"1 0 2 3"
    status, headers, body = ask("POST", "/pyramid", b"image")
    assert (status, headers["Content-Type"], body) == (200, "image/png", b"image")


def test_what_is_wrong_is_one_sentence(ask, capsys):
    assert ask("POST", "/detections", b"bad")[::2] == (422, b"the file must be an image ")
    for path in ("/drawing", "/drawing?score=x", "/attention?block=1&row=1&column=1"):
        assert ask("POST", path, b"image")[0] == 400
    status, _, body = ask("POST", "/detections", b"broken")
    assert status == 500
    assert b"secret" not in body
    assert "a secret" in capsys.readouterr().err


def test_the_size_of_an_upload_is_bounded(ask, server, monkeypatch):
    monkeypatch.setattr(page_server, "LARGEST_UPLOAD", 2**20)
    assert ask("POST", "/pyramid", b"x" * 2**20)[0] == 200
    status, headers, body = ask("POST", "/pyramid", Content_Length=str(2**20 + 1))
    assert (status, body) == (413, b"the image must have at most 1 MiB")
    assert headers["Connection"] == "close"
    for size in ("", "-1", "1e3", "9" * 30):
        assert ask("POST", "/pyramid", Content_Length=size)[0] == 411
    assert ask("POST", "/pyramid", Content_Length="3", Transfer_Encoding="chunked")[0] == 411


def test_a_client_that_sends_nothing_is_given_up(server, monkeypatch):
    monkeypatch.setattr(page_server._Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as client:
        head = b"POST /pyramid HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"
        client.sendall(head)
        assert client.recv(100) == b""


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "a@b:1"])
def test_a_name_that_others_point_here_is_turned_away(ask, host):
    """DNS rebinding: the browser of somebody on a page elsewhere."""
    assert ask("GET", "/facts", Host=host)[0] == 403
    assert ask("POST", "/detections", b"image", Host=host)[0] == 403


def test_another_page_may_not_ask(ask, server):
    own = f"127.0.0.1:{server.server_port}"
    assert ask("POST", "/detections", b"x", Host=own, Origin=f"http://{own}")[0] == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert ask("POST", "/detections", b"x", Host=own, Origin=origin)[0] == 403


@pytest.mark.parametrize(
    ("header", "host", "expected"),
    [
        ("localhost:80", "127.0.0.1", True),
        ("[::1]:80", "127.0.0.1", True),
        ("10.0.0.7:80", "0.0.0.0", True),
        ("gpu7:80", "gpu7", True),
        ("gpu7:80", "127.0.0.1", False),
        ("gpu8", "gpu7", False),
    ],
)
def test_whose_host_it_is(header, host, expected):
    assert is_own_host(header, host) == expected


def test_a_taken_port_is_one_sentence(server):
    with pytest.raises(UserError, match=r"cannot be served \(.*\); give another --port or --host"):
        open_server("127.0.0.1", server.server_port)
