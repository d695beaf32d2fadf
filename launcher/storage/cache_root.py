"""The cache: prepared data, models of the hub, and resolved facts. All of it can be created again.

A bundle is such a folder with what one recipe needs, for a cluster without internet.
"""

import hashlib
import re
from pathlib import Path

from launcher.config import paths
from launcher.config.atomic_files import expanded, is_dir


def prepared(name: str) -> Path:
    """Return the folder of the prepared data with this name, whether or not it exists."""
    return paths.cache() / paths.PREPARED / name


def kept(name: str, revision: str | None = None) -> Path:
    """Return the cache folder for the copy of a model, whether or not it exists.

    `name`: its name on the hub, or its folder as the recipe names it.
    """
    digest = hashlib.blake2b(f"{name}\0{revision or ''}".encode(), digest_size=8).hexdigest()
    return paths.cache() / paths.MODELS / f"{_plain(name)}-{digest}"


def copies(name: str) -> list[Path]:
    """Return the cached copies of all revisions of a model, by its name."""
    return sorted((paths.cache() / paths.MODELS).glob(f"{_plain(name)}-{'[0-9a-f]' * 16}"))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")[-60:]


def found(name: str, revision: str | None = None) -> str:
    """Return where to load a model from: its cached copy, else the folder of this name, else the name on the hub."""
    copy, folder = kept(name, revision), expanded(name)
    if copy.is_dir():
        return str(copy)
    return str(folder) if is_dir(folder) else name
