"""Images changed at random (Krizhevsky et al., 2012; random erasing: Zhong et al., 2020).

What becomes of an image is a pure function of its (seed, stream, epoch, id): each change draws from positions of its
own, so that turning one on leaves the others as they were.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from launcher.config.types import Strict
from launcher.contract.random import Draw, UInt, below, draws, uniform

Images = NDArray[np.uint8]

_MOVE, _TURN, _RECTANGLE, _NOISE = 0, 1, 16, 2**16
_TRIES = 10
"""Rectangles that are drawn for an image; the first that lies inside of it is erased."""
_SMALLEST, _LARGEST, _ASPECT = 0.02, 0.4, 0.3
"""Of the area that is erased, and of its height to its width, which is at most 1 / 0.3."""


class Augment(Strict):
    """Random changes of training images."""

    crop: int = Field(0, ge=0)
    """Pixels of zero padding, of which a window of the image's size is cut."""
    flip: bool = False
    """Mirror half of the images horizontally."""
    rotate: float = Field(0.0, ge=0, le=180)
    """Maximum rotation to each side in degrees."""
    erase: float = Field(0.0, ge=0, le=1)
    """Probability that a rectangle is filled with noise."""


def augmented(images: Images, config: Augment, epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> Images:
    """Images of shape (samples, height, width, channels), augmented; those given stay as they were."""
    if not len(images):
        return images
    each = np.array(epochs, dtype=np.int64)[:, None], np.array(ids, dtype=np.int64)[:, None]
    down, right, side, gate = (words[:, 0] for words in draws(draw.seed, draw.stream, *each, [_MOVE]))
    if config.crop:
        images = _cropped(images, config.crop, down, right)
    if config.flip:
        images = np.where((uniform(side) < 0.5)[:, None, None, None], images[:, :, ::-1], images)
    if config.rotate:
        turns = draws(draw.seed, draw.stream, *each, [_TURN])[0][:, 0]
        angles = ((2 * uniform(turns) - 1) * config.rotate).tolist()
        images = np.stack([_rotated(image, angle) for image, angle in zip(images, angles, strict=True)])
    if config.erase:
        images = _erased(images, np.flatnonzero(uniform(gate) < config.erase), *each, draw)
    return images


def _cropped(images: Images, padding: int, down: UInt, right: UInt) -> Images:
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = below(down, 2 * padding + 1)[:, None] + np.arange(height)
    columns = below(right, 2 * padding + 1)[:, None] + np.arange(width)
    found: Images = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return found


def _rotated(image: Images, angle: float) -> Images:
    from PIL import Image

    turned = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).rotate(angle, Image.Resampling.BILINEAR)
    return np.asarray(turned).reshape(image.shape)


def _erased(
    images: Images, chosen: NDArray[np.int64], epochs: NDArray[np.int64], ids: NDArray[np.int64], draw: Draw
) -> Images:
    """With noise in a rectangle of each of the chosen ones."""
    _, height, width, channels = images.shape
    tries = draws(draw.seed, draw.stream, epochs, ids, _RECTANGLE + np.arange(_TRIES))
    size, aspect, down, right = map(uniform, tries)
    area = (_SMALLEST + (_LARGEST - _SMALLEST) * size) * height * width
    ratio = _ASPECT + (1 / _ASPECT - _ASPECT) * aspect
    tall, wide = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (tall < height) & (wide < width)
    top, left = (down * (height - tall + 1)).astype(np.int64), (right * (width - wide + 1)).astype(np.int64)
    images = images.copy()
    for n in chosen[fits[chosen].any(1)].tolist():
        k = int(fits[n].argmax())
        shape = int(tall[n, k]), int(wide[n, k]), channels
        words = draws(draw.seed, draw.stream, epochs[n, 0], ids[n, 0], _NOISE + np.arange(-(-math.prod(shape) // 16)))
        noise = np.stack(words).astype("<u4").view(np.uint8).reshape(-1)[: math.prod(shape)].reshape(shape)
        images[n, top[n, k] : top[n, k] + shape[0], left[n, k] : left[n, k] + shape[1]] = noise
    return images
