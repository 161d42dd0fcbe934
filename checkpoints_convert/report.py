"""What became of every tensor of a file, for people and for programs."""

from __future__ import annotations

from typing import Any

from jaxdet.flags import listed


def text(report: dict[str, Any]) -> str:
    """The report of a conversion as a page of text."""
    source, size, used = report["source"], report["vit"], report["used"]
    address = f"{source['address']}, " if "address" in source else ""
    lines = [
        f"source    {address}{source['file']}, {source['bytes']} bytes",
        f"          sha256 {source['sha256']}",
        f"layout    {report['layout']} ({report['chosen']})",
        f"holds     a {report['kind']}, ViT of "
        + ", ".join(f"{name} {value}" for name, value in size.items() if value is not None),
        f"pixels    mean {_numbers(report['pixel_mean'])}, std {_numbers(report['pixel_std'])} "
        f"({report['pixels_from']})",
        f"used      {used['tensors']} tensors, {used['parameters']} parameters",
        f"left out  {len(report['left_out'])} on purpose",
    ]
    reasons: dict[str, list[str]] = {}
    for entry in report["left_out"]:
        reasons.setdefault(entry["reason"], []).append(entry["name"])
    lines += [f"          {_some(names)}: {reason}" for reason, names in reasons.items()]
    lines.append(f"unknown   {_some(report['unknown']) if report['unknown'] else 'none'}")
    lines += [f"note      {note}" for note in report["notes"]]
    keys = [_key(key, value) for key, value in report["config"].items()]
    lines.append(f"config    {', '.join(keys)}")
    return "\n".join(lines)


def _key(key: str, value: Any) -> str:
    """A config key and the value that these weights need."""
    if key == "model.vit.layer_scale":  # a number in the config, which the weights then replace
        return f"{key} set" if value else f"{key} not set"
    return f"{key}={value}"


def _some(names: list[str]) -> str:
    """A list of names, cut where it gets long; the stored report has them all."""
    return listed(names, 4)


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
