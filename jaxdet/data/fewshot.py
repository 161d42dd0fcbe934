"""Few-shot detection: a data set of some base classes, and one of a few objects of every class.

    jaxdet data fewshot --root=/data/coco --novel=voc --shots=10 /data/coco_few
    jaxdet data fewshot --root=/data/coco --merge full_box_10shot_*.json -- /data/coco_10

From a folder in COCO's format with training and validation data, and for any of its classes. The
first form writes two more such folders: OUT/base, without the novel classes, and OUT/10shot_seed0,
whose training data has 10 objects of each class and whose validation data is that of the root. The
second takes the objects from files, such as TFA's and FsDet's, which have one a class; images and
classes are the root's, found by their ids, so that files of COCO 2014 serve with COCO 2017 as well.
Images are linked, not copied.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdet.config.imted import VOC
from jaxdet.data.coco_annotations import is_flat, read_ground_truth, read_json
from jaxdet.data.coco_files import find_coco, write_annotations, writing
from jaxdet.errors import UserError
from jaxdet.flags import Parser, local_path, run_main

Document = dict[str, Any]
"""A COCO instances file's content."""


def base_classes(document: Document, novel: Sequence[str]) -> Document:
    """A data set without some classes, of the same images: their objects are left unannotated.

    Raises:
        UserError: a novel class is not listed, or no other is left.
    """
    names = {category["name"] for category in document["categories"]}
    unknown = sorted(set(novel) - names)
    if unknown:
        raise UserError(
            f"--novel names {unknown[0]!r}, which the data set does not list; it has "
            f"{', '.join(sorted(names))}"
        )
    categories = [c for c in document["categories"] if c["name"] not in novel]
    if not categories:
        raise UserError("--novel names all classes of the data set; leave some as base classes")
    kept = {category["id"] for category in categories}
    annotations = [a for a in document["annotations"] if a["category_id"] in kept]
    return {**document, "categories": categories, "annotations": annotations}


def few_objects(document: Document, shots: int, seed: int) -> Document:
    """A data set of `shots` objects of each class, or all of a class that has fewer.

    As in TFA, images are sampled class by class and an image's objects of the class count together;
    only where images with few enough do not suffice is a part of one's objects taken. Objects of
    other classes in a sampled image are not annotated, unless they are sampled too. What is sampled
    of a class follows from the seed, the class's id and its objects alone.
    """
    by_class: dict[int, dict[int, list[Document]]] = {c["id"]: {} for c in document["categories"]}
    for annotation in document["annotations"]:
        if _is_trainable(annotation):
            of_image = by_class[annotation["category_id"]].setdefault(annotation["image_id"], [])
            of_image.append(annotation)
    sampled = []
    for category_id, images in sorted(by_class.items()):
        sampled += _sample(np.random.default_rng([seed, abs(category_id)]), images, shots)
    return _with_annotations(document, sampled)


def merged_objects(document: Document, files: Sequence[Path]) -> Document:
    """A data set of the objects that several annotation files list together.

    Args:
        document: the data set their images and classes belong to, by id.

    Raises:
        UserError: a file cannot be read, or names an image or class the data set does not have.
    """
    images = {image["id"] for image in document["images"]}
    classes = {category["id"] for category in document["categories"]}
    merged: dict[int, Document] = {}
    for file in files:
        for position, annotation in enumerate(_annotations(file)):
            place = f"{file}: annotations[{position}]"
            for key, known in (("image_id", images), ("category_id", classes), ("id", None)):
                value = annotation.get(key) if isinstance(annotation, dict) else None
                if not isinstance(value, int) or (known is not None and value not in known):
                    raise UserError(
                        f"{place} has {key} {value!r}, which the data set of --root does not have; "
                        "give the files that were made from it"
                    )
            merged[annotation["id"]] = annotation
    return _with_annotations(document, list(merged.values()))


def counts(document: Document) -> dict[str, int]:
    """How many annotations each class has, by name."""
    names = {category["id"]: category["name"] for category in document["categories"]}
    found = dict.fromkeys(names.values(), 0)
    for annotation in document["annotations"]:
        found[names[annotation["category_id"]]] += 1
    return found


def write_root(folder: Path, train: Document, val: Document, images: tuple[Path, Path]) -> None:
    """Writes a folder in COCO's format that `find_coco` takes.

    Args:
        images: the folders of training and validation images, which are linked.

    Raises:
        UserError: something is there already, or cannot be written.
    """
    with writing(folder):
        (folder / "annotations").mkdir(parents=True)
        for split, document, target in zip(("train", "val"), (train, val), images, strict=True):
            (folder / split).symlink_to(target.resolve(), target_is_directory=True)
            write_annotations(folder, split, document)


def _is_trainable(annotation: Document) -> bool:
    segmentation = annotation.get("segmentation")
    has_mask = segmentation is not None and not is_flat(segmentation)
    return has_mask and not annotation["iscrowd"] and min(annotation["bbox"][2:]) > 0


def _sample(
    rng: np.random.Generator, images: dict[int, list[Document]], shots: int
) -> list[Document]:
    """So many of one class's objects, given by image."""
    ids = sorted(images)
    order = [ids[i] for i in rng.permutation(len(ids))]
    sampled: list[Document] = []
    left = []
    for image in order:
        if len(sampled) + len(images[image]) <= shots:
            sampled += images[image]
        else:
            left += images[image]
    return sampled + left[: shots - len(sampled)]


def _with_annotations(document: Document, annotations: list[Document]) -> Document:
    """The data set with these annotations alone, and the images they are on."""
    used = {annotation["image_id"] for annotation in annotations}
    images = [image for image in document["images"] if image["id"] in used]
    return {**document, "images": images, "annotations": annotations}


def _annotations(file: Path) -> list[Any]:
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise UserError(f"{file} has no list 'annotations'; name a file in COCO's format")
    return content["annotations"]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> None:
    parser = Parser("jaxdet data fewshot", __doc__)
    parser.add_argument("out", type=local_path, help="the folder to write")
    parser.add_argument("--root", required=True, help="a folder in COCO's format")
    parser.add_argument("--novel", help="names of classes with commas between, or 'voc'")
    parser.add_argument("--shots", type=int, default=10, help="objects of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--merge", type=local_path, nargs="+", help="files to take the objects from"
    )
    options = parser.parse_args(arguments)
    if (options.novel is None) == (options.merge is None):
        raise UserError(
            "give either --novel, to sample objects, or --merge, to take those of files"
        )
    if options.shots < 1 or options.seed < 0:
        raise UserError("--shots must be at least 1 and --seed at least 0")
    files, images = zip(
        *(find_coco(options.root, split) for split in ("train", "val")), strict=True
    )
    train, val = (read_ground_truth(file) for file in files)
    if options.merge:
        few = merged_objects(train, options.merge)
        _write(options.out, few, val, images)
        return
    novel = VOC if options.novel == "voc" else options.novel.split(",")
    base = [base_classes(document, novel) for document in (train, val)]
    _write(options.out / "base", *base, images)
    few = few_objects(train, options.shots, options.seed)
    _write(options.out / f"{options.shots}shot_seed{options.seed}", few, val, images)


def _write(folder: Path, train: Document, val: Document, images: tuple[Path, Path]) -> None:
    write_root(folder, train, val, images)
    found = counts(train)
    fewest = min(found, key=lambda name: found[name])
    print(
        f"{folder}: {len(train['images'])} training images, {len(found)} classes of "
        f"{found[fewest]} ({fewest}) to {max(found.values())} objects; "
        f"{len(val['images'])} validation images"
    )


if __name__ == "__main__":
    sys.exit(main())
