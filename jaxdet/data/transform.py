"""Flip, resize and crop of an image as one geometric transform, applied to pixels and points."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from jaxdet.data.dataset import LazyImage
from jaxdet.data.resize import enlarge, resample


@dataclass(frozen=True)
class Transform:
    """From an image to the canvas: mirrored if `flip`, then resized, then cut at `offset`.

    Attributes:
        image_hw: height and width of the image before anything is done to it.
        resized_hw: height and width after resizing; whole numbers unless there is a `crop_hw`.
        flip: whether the image is mirrored left to right.
        offset: (x, y) of the canvas's top left corner in the resized image; whole numbers unless
            there is a `crop_hw`.
        crop_hw: height and width of what is kept from there; None to keep all.
    """

    image_hw: tuple[int, int]
    resized_hw: tuple[float, float]
    flip: bool
    offset: tuple[float, float]
    crop_hw: tuple[int, int] | None = None

    def visible_hw(self, image_size: int) -> tuple[int, int]:
        """Height and width of the canvas's top left part that shows the image."""
        if self.crop_hw is not None:
            return min(image_size, self.crop_hw[0]), min(image_size, self.crop_hw[1])
        x, y = self.offset
        height, width = self.resized_hw
        return min(image_size, height - y), min(image_size, width - x)


def transform_image(
    image: LazyImage, transform: Transform, image_size: int, pad: int
) -> np.ndarray:
    """Resizes what the canvas shows of an image, antialiased bilinearly, and pads the rest.

    Args:
        image_size: side of the square canvas in pixels.
        pad: value of the pixels that the image does not reach.

    Returns:
        uint8 [image_size, image_size, 3].

    Raises:
        UserError: the image cannot be read.
    """
    visible_h, visible_w = transform.visible_hw(image_size)
    canvas = np.empty((image_size, image_size, 3), np.uint8)
    canvas[:visible_h, visible_w:] = pad
    canvas[visible_h:] = pad
    visible = canvas[:visible_h, :visible_w]
    is_enlarged = all(
        after >= before for after, before in zip(transform.resized_hw, image.hw, strict=True)
    )
    if is_enlarged and transform.crop_hw is None:
        pixels = image.pixels()
        if transform.flip:
            pixels = cv2.flip(pixels, 1)
        enlarge(pixels, transform.resized_hw, transform.offset, visible)
        return canvas
    left, top, right, bottom = visible_source(transform, image_size)
    if transform.flip:
        width = transform.image_hw[1]
        left, right = max(0.0, width - right), width - left
    pixels = resample(image, (left, top, right, bottom), (visible_h, visible_w))
    visible[:] = cv2.flip(pixels, 1) if transform.flip else pixels
    return canvas


def transform_points(points: np.ndarray, transform: Transform) -> np.ndarray:
    """Moves points [..., 2] (x, y) from image to canvas pixels, also those the canvas cuts off."""
    (height, width), (resized_h, resized_w) = transform.image_hw, transform.resized_hw
    if transform.flip:
        points = points * (-1, 1) + (width, 0)
    return points * (resized_w / width, resized_h / height) - transform.offset


def visible_source(transform: Transform, image_size: int) -> tuple[float, float, float, float]:
    """The part of the (mirrored) image that the canvas shows: (x1, y1, x2, y2) in its pixels."""
    (height, width), (resized_h, resized_w) = transform.image_hw, transform.resized_hw
    visible_h, visible_w = transform.visible_hw(image_size)
    x, y = transform.offset
    return (
        x * width / resized_w,
        y * height / resized_h,
        min(width, (x + visible_w) * width / resized_w),
        min(height, (y + visible_h) * height / resized_h),
    )
