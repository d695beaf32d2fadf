"""Conversion of images to one shape, normalization for a model, and rendering as text.

Prepared images are bytes of shape (height, width, channels); a model gets floats of shape (channels, height, width).
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.config.errors import Problem, UserError
from launcher.tasks import Array, JsonObject

Shape = tuple[int, ...]
"""Channels, height, width."""

_CHUNK_BYTES = 2**24
"""Maximum bytes of resized images in memory. There is a limit because resizing may enlarge images."""
_RENDERED_SIDE, _SHADES = 32, " ░▒▓█"
"""Maximum side of a rendered image in pixels; characters from dark to bright."""


class Resized(NamedTuple):
    """Whether the configuration sets the size and the number of channels. If so, other images are converted, else
    refused."""

    size: bool
    channels: bool


def shape(found: Collection[str], size: tuple[int, int] | None, channels: int | None) -> Shape:
    """Return the shape to which all images are converted: channels, height, width.

    found: shapes in the training data, such as `28x28x1` (height, width, channels); size, channels: of the
    configuration. Raises UserError if the found shapes differ and the configuration does not set one.
    """
    shapes = [tuple(map(int, one.split("x"))) for one in found]
    sizes, depths = (sorted({one[part] for one in shapes}) for part in (slice(2), slice(2, None)))
    problems = list[str | Problem]()
    if size is None and len(sizes) > 1:
        examples = " and ".join(map(_text, sizes[:2]))
        what = f"the training data has images of {len(sizes)} sizes, such as {examples} (height x width)"
        problems.append(Problem("task.size", f"{what}: give the size that all of them are brought to"))
    if channels is None and len(depths) > 1:
        what = f"the training data has images of {' and of '.join(_text(one) for one in depths)} channels"
        problems.append(Problem("task.channels", f"{what}: give 1 (grey) or 3 (colour)"))
    if problems:
        raise UserError(problems)
    return (channels or depths[0][0], *(size or sizes[0]))


def resize(images: pa.Array, target: Shape, resized: Resized, key: str) -> Iterator[NDArray[np.uint8]]:
    """Convert images to the `target` shape, and yield arrays of shape (samples, values of one image). images: a
    source's column. Raises UserError for an image of another shape that `resized` does not allow to convert."""
    channels, height, width = target
    step = max(1, _CHUNK_BYTES // (channels * height * width))
    for start in range(0, len(images), step):
        arrays = [_array(image) for image in images[start : start + step].to_pylist()]
        for array in arrays:
            _check(array, target, resized, key)
        yield np.stack([_convert(array, target) for array in arrays]).reshape(len(arrays), -1)


def normalize(images: NDArray[np.uint8], mean: NDArray[np.float32], std: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale images to 0..1, subtract the `mean` and divide by the `std` of each channel. Returns shape (samples,
    channels, height, width)."""
    values = images.astype(np.float32) / (255 * std) - mean / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def render(values: Array, mean: NDArray[np.float32], std: NDArray[np.float32]) -> str:
    """Return a normalized image as rich markup: each pixel as two characters in its colour, denser if it is brighter.
    values: shape (channels, height, width)."""
    pixels = np.clip((values.transpose(1, 2, 0) * std + mean) * 255, 0, 255).astype(int)
    step = -(-max(pixels.shape[:2]) // _RENDERED_SIDE)
    lines = np.broadcast_to(pixels, (*pixels.shape[:2], 3))[::step, ::step].tolist()
    return "\n".join("".join(map(_pixel, line)) for line in lines)


def _pixel(colour: list[int]) -> str:
    glyph = _SHADES[sum(colour) * len(_SHADES) // (3 * 256)]
    return f"[rgb({','.join(map(str, colour))})]{glyph * 2}[/]"


def _array(image: JsonObject) -> NDArray[np.uint8]:
    return np.frombuffer(image["data"], np.uint8).reshape(image["height"], image["width"], image["channels"])


def _check(array: NDArray[np.uint8], target: Shape, resized: Resized, key: str) -> None:
    hint = "(task.size and task.channels bring all to one)"
    problems = [
        Problem(
            f"{key}.image",
            f"there is one of {_text(actual)} {what}, those of the training data have {_text(expected)} {hint}",
        )
        for actual, expected, what, converted in (
            (array.shape[:2], target[1:], "pixels", resized.size),
            (array.shape[2:], target[:1], "channels", resized.channels),
        )
        if actual != expected and not converted
    ]
    if problems:
        raise UserError(problems)


def _convert(array: NDArray[np.uint8], target: Shape) -> NDArray[np.uint8]:
    channels, height, width = target
    if array.shape == (height, width, channels):
        return array
    from PIL import Image

    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels)


def _text(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))
