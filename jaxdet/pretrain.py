"""Pre-trains a ViT by masked autoencoding (MAE, arXiv 2111.06377) for detectors to start from.

    python -m jaxdet.pretrain --config=configs/mini/pretrain.py --workdir=runs/mini/pretrain

Images are the rendered shapes, or those of any folder: --config.data.root=/data/images. Writes
<workdir>/weights.npz for `config.init` of a detector, imTED's with its decoder among them, and
<workdir>/reconstructions.png to look at. The same command resumes a run that was interrupted;
several processes run it with --distributed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags, logging

from jaxdet.config.mae import check_pretraining
from jaxdet.flags import config_path, parse_with_config, run_main

DEFAULT_CONFIG = "mini/pretrain"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> None:
    values = flags.FlagValues()
    flags.DEFINE_bool(
        "distributed",
        False,
        "This is one of several processes of a run (SLURM, Kubernetes, TPU pods; see the README).",
        flag_values=values,
    )
    parse_with_config(values, arguments, DEFAULT_CONFIG)
    if values.help:
        print(__doc__ + "\n" + values.main_module_help())
        return
    check_pretraining(values.config)
    name = config_path(arguments, DEFAULT_CONFIG).stem
    # Imported late: jax takes seconds, and a mistyped flag should not.
    from jaxdet import parallel
    from jaxdet.training.pretraining import pretrain

    if values.distributed:
        parallel.join_processes()
    path = pretrain(values.config, Path(values.workdir or Path("runs") / name))
    if parallel.is_main():
        print(path)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    sys.exit(main())
