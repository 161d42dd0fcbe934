"""An HTML parser that is strict."""

from __future__ import annotations

from html.parser import HTMLParser
from importlib.resources import files

VOID = ("meta", "br", "img")

SCRIPT = (files("jaxdet.benchmark.reporting") / "templates" / "copy.js").read_text("utf-8")
"""The page's own."""


class Page(HTMLParser):
    """Checks that every opened element is closed; collects elements and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def attributes(self, *names):
        return [each[name] for _, each in self.elements for name in names if name in each]
