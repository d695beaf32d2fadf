"""Images brought to one shape, made what a model is given, and drawn for a person.

Prepared they are bytes, (height, width, channels); a model is given floats, (channels, height, width).
"""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.config.errors import Problem, UserError

Shape = tuple[int, ...]
"""Channels, height, width."""

_AT_ONCE = 2**24
"""Bytes of images that are brought to their shape at once: a small one may become a large one."""
_DRAWN, _SHADES = 32, " ░▒▓█"
"""Pixels of a drawn image's side, at the most; characters from dark to bright."""


def shape(found: Collection[str], size: tuple[int, int] | None, channels: int | None) -> Shape:
    """The one shape of all images, from those that there are (`28x28x1`). Raises UserError where they do not agree and
    nothing says what to make of them."""
    all_of_them = [tuple(map(int, one.split("x"))) for one in found]
    sizes, depths = (sorted({one[part] for one in all_of_them}) for part in (slice(2), slice(2, None)))
    problems = list[str | Problem]()
    if size is None and len(sizes) > 1:
        two = " and ".join(map(_told, sizes[:2]))
        what = f"the training data has images of {len(sizes)} sizes, such as {two} (height x width)"
        problems.append(Problem("task.size", f"{what}: give the size that all of them are brought to"))
    if channels is None and len(depths) > 1:
        what = f"the training data has images of {' and of '.join(_told(one) for one in depths)} channels"
        problems.append(Problem("task.channels", f"{what}: give 1 (grey) or 3 (colour)"))
    if problems:
        raise UserError(problems)
    return (channels or depths[0][0], *(size or sizes[0]))


def pieces(images: pa.Array, to: Shape, fixed: tuple[bool, bool], key: str) -> Iterator[NDArray[np.uint8]]:
    """Images as a source's column holds them, in arrays of shape (samples, values of one). `fixed`: whether those of
    another size, and of other channels, are brought `to` this shape. Raises UserError where they are not."""
    channels, height, width = to
    step = max(1, _AT_ONCE // (channels * height * width))
    for start in range(0, len(images), step):
        arrays = [_array(image) for image in images[start : start + step].to_pylist()]
        for array in arrays:
            _check(array, to, fixed, key)
        yield np.stack([_fitted(array, to) for array in arrays]).reshape(len(arrays), -1)


def normalised(images: NDArray[np.uint8], mean: NDArray[np.float32], std: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shape (samples, channels, height, width), from 0 to 1 less the `mean`, over `std`, of each channel."""
    values = images.astype(np.float32) / (255 * std) - mean / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def drawn(values: NDArray[np.floating[Any]], mean: NDArray[np.float32], std: NDArray[np.float32]) -> str:
    """A normalised image, (channels, height, width), as rich markup: two characters a pixel, in its colour, and the
    fuller the brighter it is."""
    pixels = np.clip((values.transpose(1, 2, 0) * std + mean) * 255, 0, 255).astype(int)
    step = -(-max(pixels.shape[:2]) // _DRAWN)
    lines = np.broadcast_to(pixels, (*pixels.shape[:2], 3))[::step, ::step].tolist()
    return "\n".join("".join(map(_block, line)) for line in lines)


def _block(colour: list[int]) -> str:
    glyph = _SHADES[sum(colour) * len(_SHADES) // (3 * 256)]
    return f"[rgb({','.join(map(str, colour))})]{glyph * 2}[/]"


def _array(image: dict[str, Any]) -> NDArray[np.uint8]:
    return np.frombuffer(image["data"], np.uint8).reshape(image["height"], image["width"], image["channels"])


def _check(array: NDArray[np.uint8], to: Shape, fixed: tuple[bool, bool], key: str) -> None:
    wrong = [
        Problem(
            f"{key}.image", f"there is one of {_told(given)} {what}, those of the training data have {_told(known)}"
        )
        for given, known, what, brought in (
            (array.shape[:2], to[1:], "pixels", fixed[0]),
            (array.shape[2:], to[:1], "channels", fixed[1]),
        )
        if given != known and not brought
    ]
    if wrong:
        raise UserError(
            [Problem(where, f"{what} (task.size and task.channels bring all to one)") for where, what in wrong]
        )


def _fitted(array: NDArray[np.uint8], to: Shape) -> NDArray[np.uint8]:
    channels, height, width = to
    if array.shape == (height, width, channels):
        return array
    from PIL import Image

    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels)


def _told(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))
