"""What a detector costs by its structure alone: parameters, multiply-adds, activations by part.

    jaxdet complexity vitb_mae

prints Markdown tables; without a name, of all configs that come along. See
`jaxdet.benchmark.cost.analytic` for what is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxdet.benchmark.cost.analytic import Cost, forward_cost, total
from jaxdet.benchmark.cost.class_count import usual_classes
from jaxdet.config.files import load_config, shipped_names
from jaxdet.config.mask_rcnn import check
from jaxdet.config.old_names import OLD_CONFIGS
from jaxdet.flags import Parser, run_main

TABLE_5 = {"vitb": (116, 853), "vitl": (339, 1907)}
"""Parameters in 10^6 and multiply-adds in 10^9 that arXiv 2111.11429 states for a backbone in its
Table 5, by the start of the configs' names; recalled, not read again."""

TABLE_5_NOTE = (
    "The published numbers (means over images) are recalled, not read again. Multiply-adds are "
    "839.0 + 0.53 n (ViT-B) and 1893.8 + 0.53 n (ViT-L) for n detections; the paper's n is not "
    "known: 26 is what gives ViT-B's 853, and with it ViT-L's comes within 0.6. Position tables "
    "are counted at the 14 x 14 of the pre-training and resized when used; stored at 64 x 64 they "
    "would add 3.0 and 4.0 million parameters."
)


class Complexity(NamedTuple):
    """Of one config, by part: what is learned, and what the detection of an image takes."""

    parameters: dict[str, int]
    costs: dict[str, Cost]


def complexity(config: ConfigDict, detections: int) -> Complexity:
    """The complexity of a config for images on which it detects so many objects.

    The number of classes is that of COCO, of LVIS or of the built-in shapes, by the config's data.
    """
    # Imported late: jax takes seconds, and --help or a wrong flag needs none of it.
    from jaxdet.models.build import StatelessModel, build_detector, parameter_count

    classes, _ = usual_classes(config)
    detector = config.model.detector
    masks = min(detections, detector.detections)
    costs = forward_cost(config, classes, proposals=detector.test_post_nms, masks=masks)
    params, _ = StatelessModel(lambda rngs: build_detector(config, classes, rngs)).abstract
    return Complexity({part: parameter_count(params.get(part, {})) for part in costs}, costs)


def markdown(found: dict[str, Complexity], detections: int) -> str:
    """Tables of parameters, multiply-adds and activations by config and part, and beside the
    published numbers where there are some.
    """

    def table(title: str, values: Callable[[Complexity], dict[str, float]]) -> str:
        return _table(title, {name: values(each) for name, each in found.items()})

    tables = [
        table(
            "Parameters in 10^6",
            lambda each: {part: count / 1e6 for part, count in each.parameters.items()},
        ),
        table(
            "Multiply-adds of an image's forward pass in 10^9",
            lambda each: {part: cost.multiply_adds / 1e9 for part, cost in each.costs.items()},
        ),
        table(
            "Activations of an image's forward pass in 10^6",
            lambda each: {part: cost.activations / 1e6 for part, cost in each.costs.items()},
        ),
    ]
    compared = [
        f"| {name} | {sum(each.parameters.values()) / 1e6:.2f} | {parameters} "
        f"| {total(each.costs.values()).multiply_adds / 1e9:.1f} | {multiply_adds} |"
        for name, each in found.items()
        for start, (parameters, multiply_adds) in TABLE_5.items()
        if name.startswith(f"{start}_")
    ]
    if compared:
        lines = [
            f"## Beside Table 5 of arXiv 2111.11429 ({detections} detections an image)",
            "",
            "| config | parameters, 10^6 | published | multiply-adds, 10^9 | published |",
            "| --- | ---: | ---: | ---: | ---: |",
            *compared,
            "",
            TABLE_5_NOTE,
        ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _table(title: str, rows: dict[str, dict[str, float]]) -> str:
    parts = next(iter(rows.values()))
    head = ["config", *(part.replace("_", " ") for part in parts), "total"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    lines += [
        [name, *(f"{value:.2f}" for value in (*values.values(), sum(values.values())))]
        for name, values in rows.items()
    ]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines)])


def _all_names() -> list[str]:
    """The configs of detectors that come with jaxdet, but the miniature's, with their arguments."""
    variants = {*OLD_CONFIGS.values()}
    bases = {name.partition(":")[0] for name in variants}
    names = {name for name in shipped_names() if "/" not in name} - bases
    return sorted(names | variants)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit status."""
    return run_main(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> None:
    parser = Parser("jaxdet complexity", __doc__)
    parser.add_argument("configs", nargs="*", metavar="NAME", help="default: all that come along")
    parser.add_argument("--detections", type=int, default=26, help="on an image (default: 26)")
    options = parser.parse_args(arguments)
    found = {}
    for name in options.configs or _all_names():
        config = load_config(name)
        config.init = None  # what it starts from costs nothing
        check(config)
        found[name] = complexity(config, options.detections)
    print(markdown(found, options.detections))


if __name__ == "__main__":
    sys.exit(main())
