"""What the numbers of an evaluation are called in result.json."""

from __future__ import annotations

IOU_TYPES = ("bbox", "segm")
"""COCO's: AP of boxes and of masks."""

MAIN_ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
SPECIAL_ERRORS = ("FalsePos", "FalseNeg")
"""TIDE's types of error (arXiv 2008.08115)."""

RIGHT = "right"
"""What is none of them."""

FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
"""LVIS's groups of categories, by the number of training images that show them."""

INSPECTION = "inspection.json"
INSPECTION_VERSION = 1
"""The file of what a report shows of a result, see `jaxdet.evaluation.inspection`."""
