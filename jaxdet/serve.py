"""Serves a page on this machine on which one looks at what a detector makes of an image.

    jaxdet serve runs/shapes_tiny
    jaxdet serve hf://owner/name --port=9000

The page takes an image that is dropped on it and shows boxes and masks, what any token attends to
in any block, and the feature pyramid. Nothing leaves the machine and no image is stored. Ctrl-C
ends it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial

from jaxdet.config.starts import start_of
from jaxdet.flags import Parser, run_main

LOCAL, PORT = "127.0.0.1", 8365


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(partial(_run, arguments))


def _run(arguments: Sequence[str] | None) -> None:
    parser = Parser("jaxdet serve", __doc__)
    add = parser.add_argument
    add("run", type=start_of, metavar="RUN", help="workdir of a run, or hf://owner/name")
    add("--port", type=_port, default=PORT, help=f"default {PORT}; 0: any that is free")
    add(
        "--host",
        default=LOCAL,
        help=f"address to serve at; default {LOCAL}, which this machine alone reaches",
    )
    options = parser.parse_args(arguments)
    # Imported late: jax takes seconds, and --help and a wrong flag should not.
    from jaxdet.inference.detector import load
    from jaxdet.inference.explorer import Explorer
    from jaxdet.inference.page_server import open_server

    with open_server(options.host, options.port) as server:
        explorer = Explorer(load(options.run), str(options.run))
        print(f"compiling for images of {explorer.facts['image_size']} pixels ...", flush=True)
        print(f"compiled in {explorer.compile():.1f} s", flush=True)
        server.explorer = explorer
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"http://{host}:{server.server_port}/ is the page; Ctrl-C ends it", flush=True)
        if options.host not in (LOCAL, "localhost", "::1"):
            print("warning: whoever reaches that address can use the page", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"{text:.100} must be from 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
