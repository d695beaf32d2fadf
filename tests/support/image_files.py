"""Images that tests make up: files in folders, and IDX files."""

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image

LABELS = ("dark", "light")


def pixels(number: int, size: tuple[int, int] = (8, 8), channels: int = 1) -> np.ndarray:
    """Noise, and light where the number is odd; shape (height, width, channels)."""
    noise = np.random.default_rng(number).integers(0, 128, (*size, channels), dtype=np.uint8)
    return noise + np.uint8(127 * (number % 2))


def save(array: np.ndarray, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file)
    return file


def folder(path: Path, count: int = 12, **shape: object) -> Path:
    """path/dark/000.png and so on, the odd ones in path/light."""
    for number in range(count):
        save(pixels(number, **shape), path / LABELS[number % 2] / f"{number:03}.png")
    return path


def idx(path: Path, count: int = 12, names: str = "train-{}-idx{}-ubyte", size: tuple[int, int] = (4, 4)) -> Path:
    """The two files of MNIST; compressed where `names` ends with .gz. The label of image n is n modulo 10."""
    path.mkdir(parents=True, exist_ok=True)
    images = np.stack([pixels(number, size)[..., 0] for number in range(count)])
    labels = (np.arange(count) % 10).astype(np.uint8)
    for what, magic, values in (("images", 2051, images), ("labels", 2049, labels)):
        content = struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.tobytes()
        file = path / names.format(what, values.ndim)
        file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return path
