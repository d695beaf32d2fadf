"""Augmentation of images (Krizhevsky et al., 2012; random erasing: Zhong et al., 2020).

The result is a pure function of the image and its (seed, stream, epoch, id). Each operation has its own random
counters, so that enabling one does not affect the others.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from launcher.config.base_model import Strict
from launcher.contract.random import Draw, UInt, below, draws, uniform

Images = NDArray[np.uint8]

_MOVE, _ROTATION, _RECTANGLE, _NOISE = 0, 1, 16, 2**16
"""The first random counter of each operation."""
_TRIES = 10
"""Number of rectangles drawn for an image. The first that fits into the image is erased."""
_MIN_AREA, _MAX_AREA, _MIN_ASPECT = 0.02, 0.4, 0.3
"""Minimum and maximum erased share of the image's area; minimum ratio of height to width (maximum: 1 / 0.3)."""


class Augment(Strict):
    """Augmentation of training images."""

    crop: int = Field(0, ge=0)
    """Pixels of zero padding on each side. A random window of the image's original size is cut from the padded
    image."""
    flip: bool = False
    """Mirror half of the images horizontally."""
    rotate: float = Field(0.0, ge=0, le=180)
    """Maximum rotation to each side in degrees."""
    erase: float = Field(0.0, ge=0, le=1)
    """Probability that a random rectangle of the image is filled with noise."""


def augment(images: Images, config: Augment, epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> Images:
    """Return augmented copies of images of shape (samples, height, width, channels). epochs, ids: those of the
    samples."""
    if not len(images):
        return images
    each = np.array(epochs, dtype=np.int64)[:, None], np.array(ids, dtype=np.int64)[:, None]
    down, right, mirror, erase = (words[:, 0] for words in draws(draw.seed, draw.stream, *each, [_MOVE]))
    if config.crop:
        images = _crop(images, config.crop, down, right)
    if config.flip:
        images = np.where((uniform(mirror) < 0.5)[:, None, None, None], images[:, :, ::-1], images)
    if config.rotate:
        words = draws(draw.seed, draw.stream, *each, [_ROTATION])[0][:, 0]
        angles = ((2 * uniform(words) - 1) * config.rotate).tolist()
        images = np.stack([_rotate(image, angle) for image, angle in zip(images, angles, strict=True)])
    if config.erase:
        images = _erase(images, np.flatnonzero(uniform(erase) < config.erase), *each, draw)
    return images


def _crop(images: Images, padding: int, down: UInt, right: UInt) -> Images:
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = below(down, 2 * padding + 1)[:, None] + np.arange(height)
    columns = below(right, 2 * padding + 1)[:, None] + np.arange(width)
    windows: Images = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return windows


def _rotate(image: Images, angle: float) -> Images:
    from PIL import Image

    rotated = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).rotate(angle, Image.Resampling.BILINEAR)
    return np.asarray(rotated).reshape(image.shape)


def _erase(
    images: Images, selected: NDArray[np.int64], epochs: NDArray[np.int64], ids: NDArray[np.int64], draw: Draw
) -> Images:
    """Return a copy of the images, with a rectangle of each selected image filled with noise."""
    _, height, width, channels = images.shape
    tries = draws(draw.seed, draw.stream, epochs, ids, _RECTANGLE + np.arange(_TRIES))
    size, aspect, down, right = map(uniform, tries)
    area = (_MIN_AREA + (_MAX_AREA - _MIN_AREA) * size) * height * width
    ratio = _MIN_ASPECT + (1 / _MIN_ASPECT - _MIN_ASPECT) * aspect
    tall, wide = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (tall < height) & (wide < width)
    top, left = (down * (height - tall + 1)).astype(np.int64), (right * (width - wide + 1)).astype(np.int64)
    images = images.copy()
    for n in selected[fits[selected].any(1)].tolist():
        k = int(fits[n].argmax())
        shape = int(tall[n, k]), int(wide[n, k]), channels
        words = draws(draw.seed, draw.stream, epochs[n, 0], ids[n, 0], _NOISE + np.arange(-(-math.prod(shape) // 16)))
        noise = np.stack(words).astype("<u4").view(np.uint8).reshape(-1)[: math.prod(shape)].reshape(shape)
        images[n, top[n, k] : top[n, k] + shape[0], left[n, k] : left[n, k] + shape[1]] = noise
    return images
