"""The page of `jaxdet serve`: its pictures are the detector's, and a browser shows them."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from PIL import Image

from jaxdet import serve
from jaxdet.errors import UserError
from jaxdet.inference import attention_maps
from jaxdet.inference.explorer import Explorer
from jaxdet.inference.page_server import open_server
from tests.browser import Browser, find_browser


@pytest.fixture(scope="module")
def explorer(detector):
    return Explorer(detector, "runs/tiny")


@pytest.fixture
def content(photo):
    file = io.BytesIO()
    photo.save(file, "PNG")
    return file.getvalue()


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_what_the_page_lists_is_what_the_detector_finds(explorer, detector, content, photo):
    expected = detector.predict(photo)
    found = explorer.detections(content)
    assert found["found"] == len(expected.results) > 0
    assert (found["width"], found["height"]) == photo.size
    assert found["grid"] == (4, 4)
    assert [each["score"] for each in found["detections"]] == expected.scores.tolist()
    assert [each["box"] for each in found["detections"]] == expected.boxes.tolist()
    np.testing.assert_array_equal(pixels_of(explorer.drawing(content, 0.1)), expected.draw(0.1))


@pytest.mark.parametrize(("block", "window"), [(0, 2), (1, None)])
def test_attention_is_that_of_one_block_alone(explorer, detector, content, photo, block, window):
    """All blocks' in one program, against the program of each."""
    weights = attention_maps.attention_weights(detector, photo, block)
    pixels = detector.prepare(photo)["image"][0]
    for query in ((0, 0), (2, 1), (3, 3)):
        expected = attention_maps.attention_map(weights, (4, 4), window, query)
        found = attention_maps.attention_of(detector, photo, query)[block]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        drawn = attention_maps.draw_attention(pixels, found[1], window, query)
        shown = explorer.attention(content, block, 1, *query)
        np.testing.assert_array_equal(pixels_of(shown), drawn)


def test_the_pyramid_is_shown_beside_the_image(explorer, content):
    assert pixels_of(explorer.pyramid(content)).shape == (256, 504, 3)


@pytest.mark.parametrize("place", [(2, 0, 0, 0), (0, 2, 0, 0), (0, 0, 4, 0), (0, 0, 0, -1)])
def test_what_there_is_not_is_one_sentence(explorer, content, place):
    with pytest.raises(UserError, match=r"=\S+ must be from 0 to \d"):
        explorer.attention(content, *place)


def test_a_file_that_is_no_image_is_one_sentence(explorer, content):
    for broken in (b"text", content[: len(content) // 2]):
        with pytest.raises(UserError, match=r"^the file "):
            explorer.detections(broken)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--port=99999"], "99999 must be from 0 to 65535"),
        (["{run}", "--port=abc"], "abc must be from 0 to 65535"),
        (["{run}", "--host=no such host"], "cannot be served"),
        (["/nowhere"], "/nowhere/checkpoints does not exist"),
        (["hf://owner"], "must be hf://owner/name"),
    ],
)
def test_a_mistake_is_one_sentence(finished, arguments, message, capsys):
    given = [text.format(run=finished[0].workdir) for text in arguments]
    assert serve.main(["--port=0", *given]) == 2
    assert message in capsys.readouterr().err


def test_the_command_says_where_the_page_is(finished, detector, monkeypatch, capsys):
    """Until Ctrl-C."""

    def stop(server):
        assert server.explorer.facts["classes"] == ["disc", "box", "triangle", "star"]
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxdet.inference.detector.load", lambda run: detector)
    monkeypatch.setattr("jaxdet.inference.page_server.Server.serve_forever", stop)
    assert serve.main([str(finished[0].workdir), "--port=0"]) == 0
    out = capsys.readouterr().out
    assert "compiling for images of 64 pixels ...\ncompiled in " in out
    assert "http://127.0.0.1:" in out


PROBLEMS = """
window.problems = [];
for (const kind of ["error", "unhandledrejection"]) {
  addEventListener(kind, (event) => problems.push(String(event.message || event.reason)));
}
"""
GIVE = """
(() => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(%s)], "%s"));
  %s
})()
"""
CHOSEN = """
  document.getElementById("file").files = data.files;
  document.getElementById("file").dispatchEvent(new Event("change"));
"""
DROPPED = """
  document.body.dispatchEvent(
    new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
"""
SHOWN = """
(() => {
  const picture = document.getElementById("%s");
  const isNew = picture.src.startsWith("blob:") && picture.src !== "%s";
  return isNew && picture.complete && picture.naturalWidth > 100 &&
    !picture.classList.contains("waiting") && picture.src;
})()
"""
CLICKED = """
(() => {
  const picture = document.getElementById("attention"), frame = picture.getBoundingClientRect();
  picture.dispatchEvent(
    new MouseEvent("click", {clientX: frame.left + 10, clientY: frame.top + 10, bubbles: true}));
})()
"""
MOVED = """
(() => {
  const block = document.getElementById("block");
  block.value = 0;
  for (const kind of ["input", "change"]) block.dispatchEvent(new Event(kind));
})()
"""


@pytest.fixture
def page(explorer, tmp_path):
    """A browser at the page."""
    if find_browser() is None:
        pytest.skip("needs Chromium or Chrome")
    with open_server("127.0.0.1", 0) as server, Browser(find_browser(), tmp_path) as browser:
        server.explorer = explorer
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{server.server_port}/", 400)
        browser.run(PROBLEMS)
        browser.wait(text_has("detector", "runs/tiny: 4 classes"))
        yield browser
        server.shutdown()
        assert browser.run("problems") == []


def text_has(name, text):
    return f'document.getElementById("{name}").textContent.includes("{text}")'


def shown(page, name, before=""):
    """The address of a picture, once it is another one that has loaded."""
    return page.wait(SHOWN % (name, before))


def test_a_browser_shows_an_image_s_views(page, content):
    page.run(GIVE % ([*content], "a.png", CHOSEN))
    first = {name: shown(page, name) for name in ("drawing", "attention", "pyramid")}
    page.wait(text_has("status", "detections of any score"))
    assert page.run("document.querySelectorAll('#list tr').length") > 0
    assert page.run("document.documentElement.scrollWidth") <= 400
    page.wait("String(state.token) === '2,2'")
    page.run(CLICKED)
    assert page.run("state.token") == [0, 0]
    clicked = shown(page, "attention", first["attention"])
    page.run(MOVED)
    shown(page, "attention", clicked)
    assert page.run(text_has("block-said", "0, windows of 2"))
    page.run(GIVE % ([*b"text"], "b.png", CHOSEN))
    page.wait("document.getElementById('status').classList.contains('wrong')")
    assert page.run(text_has("status", "the file must be an image"))


def test_an_image_can_be_dropped(page, content, photo):
    page.run(GIVE % ([*content], "dropped.png", DROPPED))
    shown(page, "pyramid")
    page.wait(text_has("status", "dropped.png, {} x {} pixels: ".format(*photo.size)))
