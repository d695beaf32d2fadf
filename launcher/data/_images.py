"""Images as arrays: decoded to 8 bits, grey or colour."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Shape (height, width, channels), with 1 channel or 3."""


def decoded(content: bytes | Path) -> Pixels:
    """The image of a file, or of its bytes, the way up that its camera was held. Raises ValueError with what is wrong
    with it, and OSError for a file that cannot be read."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    stream = io.BytesIO(content.read_bytes() if isinstance(content, Path) else content)
    try:
        with Image.open(stream) as image:
            image.load()
            return _pixels(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ValueError("is no image of a known format" if stream.getbuffer().nbytes else "is empty") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"is a broken image: {error}") from None


def image(name: Any, given: Any) -> Pixels:
    """What a column holds: an array, the bytes of a file, or a map of `bytes` and `path`, as `datasets` has it. Raises
    ValueError."""
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim == 3:
        return given
    if isinstance(given, dict) and (content := given.get("bytes") or _file(given.get("path"))):
        given = content
    if not isinstance(given, bytes | Path):
        raise ValueError(f"column {name!r} is no image but {type(given).__name__}")
    try:
        return decoded(given)
    except (OSError, ValueError) as error:
        raise ValueError(f"column {name!r} {error}") from None


def _file(path: Any) -> Path | None:
    return Path(path) if isinstance(path, str) else None


def _pixels(image: Any) -> Pixels:
    """Palettes become colours, 16 bits 8, and what is transparent lies on white."""
    from PIL import Image

    if image.mode.startswith("I"):
        return (np.asarray(image).clip(0, 2**16 - 1) >> 8).astype(np.uint8)[..., None]
    if image.mode == "F":
        raise ValueError("its pixels are fractions, in units that it does not tell")
    if image.has_transparency_data:
        grey = image.mode == "LA"
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("L" if grey else "RGB")
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)
