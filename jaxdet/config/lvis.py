"""What ViTDet's recipe on LVIS v1 changes of its recipe on COCO (arXiv 2203.16527, appendix)."""

from __future__ import annotations

from ml_collections import ConfigDict

LVIS_CLASSES = 1203

WARMUP_EPOCHS = 250 * 64 / 100_000
"""250 steps of 64 images, of 100 000 in an epoch."""


def make_lvis(config: ConfigDict) -> None:
    """Turns a recipe on COCO into that on LVIS v1: its metric, images of rare categories repeated,
    a federated loss, and as many detections of so low a score that rare categories come up.

    Where Detectron2's released configs say more than the paper, they are followed.
    """
    config.data.update(metric="lvis", repeat_threshold=0.001, max_instances=300)
    config.model.detector.update(
        class_loss="sigmoid",
        federated_classes=50,
        federated_power=0.5,
        score_threshold=0.02,
        detections=300,
    )
    config.optim.warmup_epochs = WARMUP_EPOCHS
