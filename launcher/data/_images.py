"""Images as arrays: decoded to 8 bits, grey or colour."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]
"""Shape (height, width, channels), with 1 or 3 channels."""

_TRANSPOSITIONS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip
"""EXIF orientation -> the transposition of Pillow that turns the image upright."""


def decode(content: bytes | Path) -> Pixels:
    """Decode an image file, or its bytes, and turn it upright. Raises ValueError for a broken image, and OSError for a
    file that cannot be read."""
    from PIL import Image, UnidentifiedImageError

    stream = io.BytesIO(content.read_bytes() if isinstance(content, Path) else content)
    try:
        with Image.open(stream) as image:
            image.load()
            return _pixels(_upright(image))
    except UnidentifiedImageError:
        raise ValueError("is no image of a known format" if stream.getbuffer().nbytes else "is empty") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders do not document what they raise for broken bytes
        raise ValueError(f"is a broken image: {error}") from None


def as_pixels(name: object, value: object) -> Pixels:
    """Return the image of a cell: an array, the bytes of a file, or a map of `bytes` and `path` as in `datasets`.
    Raises ValueError. `name`: the column, for the message."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3:
        return value
    if isinstance(value, dict) and (content := value.get("bytes") or _path(value.get("path"))):
        value = content
    if not isinstance(value, bytes | Path):
        raise ValueError(f"column {name!r} is no image but {type(value).__name__}")
    try:
        return decode(value)
    except (OSError, ValueError) as error:
        raise ValueError(f"column {name!r} {error}") from None


def _path(path: object) -> Path | None:
    return Path(path) if isinstance(path, str) else None


def _upright(image: "Image.Image") -> "Image.Image":
    """Turn the image as its EXIF orientation says; leave it unchanged if that cannot be read. (Pillow's exif_transpose
    also rewrites EXIF, and fails if any other entry is broken.)"""
    from PIL import ExifTags, Image

    try:
        transposition = _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation) or 1)
    except MemoryError:
        raise
    except Exception:
        transposition = None
    return image.transpose(Image.Transpose[transposition]) if transposition else image


def _pixels(image: "Image.Image") -> Pixels:
    """Convert palettes to colours, 16 bits to 8, and transparency to white. Raises ValueError for fractions.

    An image of 32 bits does not declare its range: if all its values fit into 8 bits, they are used as 8 bits, else as
    16.
    """
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 2**16 - 1)
        wide = image.mode != "I" or values.max(initial=0) > 255
        return (values >> 8 if wide else values).astype(np.uint8)[..., None]
    if image.mode == "F":
        raise ValueError("its pixels are fractions, of an unknown unit")
    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("L" if grey else "RGB")
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)
