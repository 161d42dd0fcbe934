"""Pre-trains a ViT by masked autoencoding (MAE, arXiv 2111.06377) for detectors to start from.

    jaxdet pretrain --config=mini/pretrain --workdir=runs/mini/pretrain

Images are the rendered shapes, or those of any folder: --config.data.root=/data/images. Writes
<workdir>/weights.npz for `config.init` of a detector, imTED's with its decoder among them, and
<workdir>/reconstructions.png to look at. The same command resumes a run that was interrupted;
several processes run it with --distributed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from ml_collections import ConfigDict

from jaxdet.config.command_line import parse_with_config
from jaxdet.config.mae import check_pretraining
from jaxdet.flags import Parser, add_distributed, run_main
from jaxdet.training.workdir_lock import lone_run

DEFAULT_CONFIG = "mini/pretrain"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(arguments), resumes=True)


def _run(arguments: Sequence[str] | None) -> None:
    parser = Parser("jaxdet pretrain", __doc__)
    add_distributed(parser)
    options, config = parse_with_config(parser, arguments, DEFAULT_CONFIG)
    check_pretraining(config)
    # Of several processes one has the lock, and which it is JAX knows.
    with nullcontext() if options.distributed else lone_run(options.workdir):
        _start(options, config)


def _start(options: argparse.Namespace, config: ConfigDict) -> None:
    # Imported late: jax takes seconds, and a mistyped flag should not.
    from absl import logging

    from jaxdet import parallel
    from jaxdet.training.pretraining import pretrain

    logging.set_verbosity(logging.WARNING)
    if options.distributed:
        parallel.join_processes()
    path = pretrain(config, options.workdir)
    if parallel.is_main():
        print(path)


if __name__ == "__main__":
    sys.exit(main())
