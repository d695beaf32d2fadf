"""Images as arrays: decoded to 8 bits, grey or colour."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Shape (height, width, channels), with 1 channel or 3."""

_TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip
"""What brings an image upright, by its orientation in EXIF."""


def decoded(content: bytes | Path) -> Pixels:
    """The image of a file, or of its bytes, the way up that its camera was held. Raises ValueError with what is wrong
    with it, and OSError for a file that cannot be read."""
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
    except Exception as error:  # what a decoder may raise at broken bytes is not listed anywhere
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


def _upright(image: Any) -> Any:
    """The image as EXIF says it was held; as it is where that cannot be read. (Pillow's own exif_transpose writes EXIF
    anew, and fails where any other entry is broken.)"""
    from PIL import ExifTags, Image

    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except MemoryError:
        raise
    except Exception:
        turn = None
    return image.transpose(Image.Transpose[turn]) if turn else image


def _pixels(image: Any) -> Pixels:
    """Palettes become colours, 16 bits 8, and what is transparent lies on white. Of 32 bits, which do not tell their
    range, 8 are taken for all where they suffice, and else 16."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 2**16 - 1)
        wide = image.mode != "I" or values.max(initial=0) > 255
        return (values >> 8 if wide else values).astype(np.uint8)[..., None]
    if image.mode == "F":
        raise ValueError("its pixels are fractions, in units that it does not tell")
    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("L" if grey else "RGB")
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)
