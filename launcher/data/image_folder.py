"""Image files in one folder per label."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from launcher import data
from launcher.config.errors import Problem, UserError
from launcher.data import BadRow, Part, Row
from launcher.data._files import file_hash, fingerprint_of, folders, group_files
from launcher.data._images import decode
from launcher.data._source import FilesConfig, check_fixed_columns, fixed_row

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class Config(FilesConfig):
    """Images in one folder for each label."""

    kind: Literal["image_folder"] = "image_folder"


class Source(data.Source):
    config: Config

    def fingerprint(self, key: str) -> str:
        """Hash the bytes of the images and their names below the folders of `path`."""
        return fingerprint_of((name.as_posix(), file_hash(root / name)) for root, name in _images(self.config, key))

    def parts(self, key: str) -> list[Part]:
        files = (root / name for root, name in _images(self.config, key))
        return group_files((file, file.stat().st_size or 1) for file in files)

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        check_fixed_columns(self.config, columns, ("image", "label"), key)
        roots = folders(self.config, key)
        for file in map(Path, part.files):
            root = next(root for root in reversed(roots) if file.is_relative_to(root))
            label, *inside = file.relative_to(root).parts
            yield _row(file, label if inside else None, columns)

    def places(self, key: str, part: Part) -> Iterator[Callable[[], str]]:
        return (partial(str, file) for file in part.files)


def _row(file: Path, label: str | None, columns: Sequence[str]) -> Row | BadRow:
    if label is None and "label" in columns:
        return BadRow(str(file), "lies in no folder that could be its label")
    try:
        return fixed_row({"image": decode(file), "label": label}, columns, str(file))
    except OSError as error:
        return BadRow(str(file), f"cannot be read: {error.strerror}")
    except ValueError as error:
        return BadRow(str(file), str(error))


def _images(config: Config, key: str) -> list[tuple[Path, Path]]:
    """Return every image once, sorted, as (folder of `path`, name below it). Raises UserError if there is no image."""
    roots, found = folders(config, key), dict[Path, tuple[Path, Path]]()
    for root in roots:
        files = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        found |= {file: (root, file.relative_to(root)) for file in sorted(files)}
    if not found:
        what = f"{', '.join(map(str, roots))}: no image is in it (looked for LABEL/*{', *'.join(SUFFIXES)})"
        raise UserError(Problem(f"{key}.path", what))
    return list(found.values())
