"""Code in the folder of a model or tokenizer, named by `auto_map` in its files.

The code runs only if the recipe trusts it. Every call of transformers gets this decision as an option, since it would
otherwise ask on standard input.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.config.errors import Problem, UserError
from launcher.config.types import JsonObject
from launcher.storage import cache_root

CONFIG = "config.json"
_ATTENTION = "attn_implementation"
_REFUSES = "trust_remote_code"
"""Option that transformers names in its refusal."""


@contextmanager
def refused(name: str | Path, file: str, key: str, allow: str, revision: str | None = None) -> Iterator[None]:
    """Replace transformers' refusal to load code in the block by a UserError of one line.

    `file`: file that names the code; `key`: key of the recipe; `allow`: key of the map whose trust_remote_code would
    allow it.
    """
    try:
        yield
    except ValueError as error:
        if not is_refusal(error):
            raise
        code = f"names code of its own ({', '.join(named(str(name), file, revision))})"
        what = f"auto_map: {code}; it is run only with {allow}.trust_remote_code: true in the recipe"
        raise UserError(Problem(key, f"{Path(name) / file}: {what}")) from None


def is_refusal(error: Exception) -> bool:
    """Return whether an error is transformers' refusal to run code."""
    return _REFUSES in str(error)


def named(name: str, file: str, revision: str | None = None) -> list[str]:
    """Return the classes that the `auto_map` of a file names, such as modeling.Model; empty: none."""
    auto_map = _read(name, file, revision).get("auto_map")
    values = list(auto_map.values()) if isinstance(auto_map, dict) else [auto_map]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(str(one) for one in flat if one is not None))


def elsewhere(name: str, file: str, key: str, revision: str | None = None) -> None:
    """Raise UserError if the code is in another repository, which is neither pinned nor bundled."""
    other = [one for one in named(name, file, revision) if "--" in one]
    if other:
        what = f"names code of another repository ({', '.join(other)}), which is not pinned"
        raise UserError(Problem(key, f"{Path(name) / file}: auto_map: {what} (a folder with the code in it)"))


def refuse_kernels(name: str | Path, key: str, revision: str | None = None) -> None:
    """Raise UserError if a model's configuration, or a part of it, names an attention kernel of the hub.

    Otherwise transformers would download the kernel and run it.
    """
    kernels = sorted(_kernels(_read(str(name), CONFIG, revision)))
    if kernels:
        what = f"attn_implementation: names code of the hub ({', '.join(kernels)})"
        raise UserError(Problem(key, f"{Path(name) / CONFIG}: {what} (model.attention: sdpa, say)"))


def _kernels(value: object, named: bool = False) -> set[str]:
    """Return the texts with a slash below any key that ends with attn_implementation."""
    if isinstance(value, dict):
        items = value.items()
        return set().union(*(_kernels(one, named or key.endswith(_ATTENTION)) for key, one in items))
    if isinstance(value, list):
        return set().union(*(_kernels(one, named) for one in value))
    return {value} if named and isinstance(value, str) and "/" in value else set()


def copy_code(folder: Path, to: Path) -> None:
    """Copy the Python files of a model's folder to the folder of its configuration, which names them."""
    for file in folder.glob("*.py"):
        shutil.copyfile(file, to / file.name)


def _read(name: str, file: str, revision: str | None) -> JsonObject:
    where = Path(cache_root.found(name, revision)) / file
    if not where.is_file():
        from transformers.utils import cached_file

        with suppress(OSError, ValueError):
            where = Path(cached_file(name, file, revision=revision) or where)
    with suppress(OSError, ValueError):
        read = json.loads(where.read_text(encoding="utf-8"))
        return read if isinstance(read, dict) else {}
    return {}
