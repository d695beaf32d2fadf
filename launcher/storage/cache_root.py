"""Where everything that can be made again is kept: prepared data, models of the hub, what was counted and resolved.

A bundle, which is carried to a cluster without internet, is such a folder, with what one recipe needs.
"""

import hashlib
import re
from pathlib import Path

from launcher.config import code_origin
from launcher.config.atomic_files import expanded, is_dir

BUNDLE = "bundle.json"
"""The file that makes a bundle of such a folder."""


def root() -> Path:
    """$LAUNCHER_CACHE, else ~/.cache/launcher."""
    return code_origin.cache()


def prepared(name: str) -> Path:
    """Where the prepared data of this name is, or will be."""
    return root() / "prepared" / name


def kept(name: str, revision: str | None = None) -> Path:
    """Where the copy of a model is, or will be: of a hub name, or in a bundle of a folder as the recipe names it."""
    digest = hashlib.blake2b(f"{name}\0{revision or ''}".encode(), digest_size=8).hexdigest()
    return root() / "models" / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('-')[-60:]}-{digest}"


def found(name: str, revision: str | None = None) -> str:
    """What to load a model from: its copy, or the folder itself, or else the hub by this name."""
    copy, folder = kept(name, revision), expanded(name)
    if copy.is_dir():
        return str(copy)
    return str(folder) if is_dir(folder) else name
