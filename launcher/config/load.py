"""Load recipes and cluster profiles: YAML files, the files that they inherit from by `base:`, and overrides. Every
mistake is reported with its line."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML

from launcher.config import code_origin, env_vars, messages, override_keys, secret_values, trust
from launcher.config import document as documents
from launcher.config.atomic_files import is_file, write
from launcher.config.base_model import Strict, hint
from launcher.config.cluster import Cluster
from launcher.config.document import Document, Key, Override, Value
from launcher.config.errors import Problem, UserError, shown
from launcher.config.profile_values import STORED
from launcher.config.recipe import Recipe
from launcher.config.types import JsonObject

T = TypeVar("T", bound=Strict)
_RESOLVED = 20
"""Factor of the maximum size for a resolved recipe, which holds every default."""
_CHAIN = 32
"""Maximum number of files that inherit from each other."""


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A validated recipe or cluster profile, with the document that it was read from."""

    value: T
    document: Document
    """Values with the file and line of each key."""
    written: Document
    """The document before the overrides."""
    overrides: tuple[str, ...] = ()
    """Overrides of the command line."""
    file: str = ""
    """File as the user named it."""
    stored: Path | None = None
    """File of the document that somebody else may have written; None: there is none (see launcher.config.trust)."""
    notes: tuple[str, ...] = ()
    """Remarks for the user, which a plan shows."""

    def override(self, *overrides: str) -> "Loaded[T]":
        """Return the document with further overrides. The file is not read again, and the kinds that it names stay
        allowed. Raises UserError with every mistake found."""
        return self.merged(Document({}), *overrides)

    def merged(self, above: Document, *overrides: str) -> "Loaded[T]":
        """Return the document with the values of another one, which all overrides replace. Raises UserError."""
        written = documents.merge(self.written, above)
        loaded = _checked(type(self.value), written, (*self.overrides, *overrides), self.stored)
        return replace(loaded, file=self.file, notes=self.notes)

    def without(self, keys: Sequence[str]) -> "Loaded[T]":
        """Return the document without the overrides of these dotted keys and of all keys below them. Raises
        UserError."""
        kept = [text for override in self.overrides for text in override_keys.apart_from(keys, override)]
        loaded = _checked(type(self.value), self.written, kept, self.stored)
        return replace(loaded, file=self.file, notes=self.notes)

    def located(self, error: UserError) -> UserError:
        """Return the same mistakes. Each that has a key begins with the key's file and line, or with its override."""
        return UserError([self.document.located(p) if isinstance(p, Problem) else p for p in error.problems])


def recipe(file: str | Path, overrides: Sequence[str] = ()) -> Loaded[Recipe]:
    """Load the recipe in a file, or the shipped recipe with this name. A file in a run folder or a bundle is treated as
    a stored recipe (see launcher.config.trust). Raises UserError with every mistake."""
    path = _find(file, "recipes")
    return replace(_recipe(path, overrides, stored=code_origin.artefact(path) is not None), file=str(file))


def stored(file: Path) -> Loaded[Recipe]:
    """Load a run's recipe. Somebody else may have written it (see launcher.config.trust). Raises UserError."""
    return replace(_recipe(file, (), stored=True), file=str(file))


def trusted(file: Path) -> Loaded[Recipe]:
    """Load a run's recipe on its ranks. Names in it are not checked, since the launcher that started the ranks has done
    so."""
    return _typed(Recipe, _read(file, _RESOLVED), ())


def plain(file: Path) -> JsonObject:
    """Read a resolved recipe without validating it or importing plug-ins. Raises UserError."""
    return documents.read(file, _RESOLVED).value


def raw(file: str, folder: str, overrides: Sequence[str] = ()) -> JsonObject:
    """Read a recipe (`folder`: recipes) or a profile (cluster) with its bases and overrides, without validating it or
    importing plug-ins. Raises UserError."""
    document = _read(_find(file, folder))
    return functools.reduce(
        lambda below, text: documents.merge(below, documents.of_override(text), parts=True), overrides, document
    ).value


def cluster(file: str | Path, overrides: Sequence[str] = ()) -> Loaded[Cluster]:
    """Load the cluster profile in a file, or the shipped one with this name. Raises UserError with every mistake."""
    return _cluster(_find(file, "cluster"), str(file), overrides)


def local_cluster() -> Cluster:
    """Load the shipped profile `local`, even if the current folder has a file of this name. Raises UserError."""
    return _cluster(_shipped_file("local", "cluster"), "local", ()).value


def _cluster(path: Path, reference: str, overrides: Sequence[str]) -> Loaded[Cluster]:
    document = _read(path)
    plain = [
        Override(text.lstrip().removeprefix(override_keys.CLUSTER), documents.origin_of(text)) for text in overrides
    ]
    loaded = _checked(Cluster, document, plain, _artefact(document))
    loaded.value._reference, loaded.value._overrides = reference, tuple(override_keys.parted(overrides)[1])
    loaded.value._document = loaded.document
    return loaded


def stored_cluster(file: Path) -> Loaded[Cluster]:
    """Load a run's profile. Somebody else may have written it. Variables are not expanded again. Raises UserError."""
    with trust.loading(file):
        return trusted_cluster(file)


def trusted_cluster(file: Path) -> Loaded[Cluster]:
    """Load a run's profile on its ranks. Names in it are not checked (see `trusted`)."""
    return _typed(Cluster, _read(file), (), {STORED: True})


def profile(file: str, overrides: Sequence[str], *more: str) -> tuple[Cluster, list[str]]:
    """Load the cluster profile of a command. Returns the profile and the overrides of the recipe. `more`: further
    overrides of the profile. If the profile names an existing shared folder, prepared data is cached there. Raises
    UserError."""
    of_recipe, of_cluster = override_keys.parted(overrides)
    loaded = cluster(file, [*of_cluster, *more]).value
    if loaded.scratch.shared is not None and Path(loaded.scratch.shared).is_dir():
        os.environ.setdefault(env_vars.CACHE, loaded.scratch.shared)
    return loaded, of_recipe


def shipped(folder: str) -> list[Path]:
    """Return the shipped YAML files of a folder, in a checkout or an installed package; empty if it is missing."""
    package = Path(__file__).parent.parent
    for root in (package.parent / folder, package / "_shipped" / folder):
        if root.is_dir():
            return sorted(root.glob("*.yaml"))
    return []


def dump(config: Strict, file: Path) -> None:
    """Write a configuration atomically in its resolved form: with every default, and without inheritance."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False  # flow style writes texts (such as ?0) that it cannot read back
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    yaml.dump(config.model_dump(mode="json"), text)
    write(file, text.getvalue())


def _find(name: str | Path, folder: str) -> Path:
    """Return the file that a user's name means: a path, or a shipped file. A folder with the name of a shipped file,
    such as `local`, is ignored. Raises UserError."""
    path = Path(name)
    if is_file(path) or path.suffix in (".yaml", ".yml"):
        return path
    known = {file.stem for file in shipped(folder)}
    return path if os.path.lexists(path) and str(name) not in known else _shipped_file(str(name), folder)


def _shipped_file(name: str, folder: str) -> Path:
    known = {file.stem: file for file in shipped(folder)}
    if name not in known:
        raise UserError(f"{shown(name)}: no such file, nor a shipped one of {folder}/ ({hint(name, known)})")
    return known[name]


def _recipe(file: Path, overrides: Sequence[str], stored: bool) -> Loaded[Recipe]:
    """Load a recipe. `stored`: somebody else may have written the file. Files that it inherits from are checked in any
    case."""
    document = _read(file, _RESOLVED if stored else 1)
    return _checked(Recipe, document, overrides, _artefact(document) or (file if stored else None))


def _checked(kind: type[T], document: Document, overrides: Sequence[str], stored: Path | None) -> Loaded[T]:
    """Validate a document and check the names of code in it. `stored`: its file that somebody else may have written, if
    any."""
    with trust.loading(stored, trust.dotted_paths(overrides)):
        loaded = replace(_typed(kind, document, overrides), stored=stored)
    if stored is None and (paths := list(secret_values.paths(loaded.document.value))):
        texts = [(loaded.document.origin(path), ".".join(map(str, path))) for path in paths]
        raise UserError([f"{origin}: {shown(key)}: {secret_values.ADVICE}" for origin, key in texts])
    return loaded


def _artefact(document: Document) -> Path | None:
    """Return a file of the document that is part of an artefact (see code_origin.artefact); None: there is none.

    A document that inherits has several files. Somebody else may have written a file in an artefact.
    """
    written = {Path(where.rpartition(":")[0]) for where in document.origins.values()}
    return next((path for path in written if code_origin.artefact(path)), None)


def _typed(
    kind: type[T], written: Document, overrides: Sequence[str], context: dict[str, bool] | None = None
) -> Loaded[T]:
    problems: list[str | Problem] = []
    merged_overrides = Document({})
    for text in overrides:
        try:
            merged_overrides = documents.merge(merged_overrides, documents.of_override(text), parts=True)
        except UserError as error:
            problems += error.problems
    document = documents.merge(written, merged_overrides)
    try:
        typed = kind.model_validate(document.value, context=context)
    except ValidationError as error:
        raise UserError([*problems, *_lines(document, error)]) from None
    if problems:
        raise UserError(problems)
    return Loaded(typed, document, written, tuple(overrides))


def _lines(document: Document, error: ValidationError) -> list[str]:
    """Return a message `file:line: key: what` for each key. If a value may have several types, the messages of all
    types are joined. A value with a mistake inside it has no message of its own."""
    by_path: dict[Key, list[str]] = {}
    for detail in error.errors():
        message = messages.of(detail)
        missing = detail["loc"][-1:] if detail["type"] == "missing" else ()
        path = (*_path(document, detail["loc"]), *missing)
        if missing and path in document.dropped:
            where, kind = document.dropped[path]
            message = f"{message} (that of {where} is of kind {kind}, and is not taken over)"
        earlier = by_path.setdefault(path, [])
        earlier.append(message.removeprefix("should be ") if earlier else message)
    inside = {path[:n] for path in by_path for n in range(len(path))}
    return [
        ": ".join(
            [document.origin(path), *([shown(".".join(map(str, path)))] if path else []), shown(", or ".join(messages))]
        )
        for path, messages in by_path.items()
        if path not in inside
    ]


def _path(document: Document, loc: Key) -> Key:
    """Return the keys of a pydantic location without the names of union branches."""
    path: Key = ()
    value: Value = document.value
    for part in loc:
        inside = isinstance(value, dict) and part in value
        if inside or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value, path = value[part], (*path, part)
    return path


def _read(file: Path, times: int = 1) -> Document:
    """Read a file and the files that it inherits from. `times`: factor of the maximum size."""
    first, chain, seen = file, [documents.read(file, times)], {file.resolve()}
    while (base := _base(chain[-1], file)) is not None:
        where = f"{chain[-1].origin(('base',))}: base"
        if base.resolve() in seen:
            raise UserError(f"{where}: {base}: inherits from this file, in a circle")
        if len(chain) == _CHAIN:
            raise UserError(
                f"{where}: more than {_CHAIN} files, each of which inherits from the next one, from {first} on"
            )
        seen.add(base.resolve())
        chain.append(documents.read(base))
        file = base
    return functools.reduce(documents.merge, reversed(chain))


def _base(document: Document, file: Path) -> Path | None:
    """Remove `base` from a document. Returns the file that it names, or None. Raises UserError if the file does not
    exist."""
    base = document.value.pop("base", None)
    if base is None:
        return None
    where = f"{document.origin(('base',))}: base"
    if not isinstance(base, str):
        raise UserError(f"{where}: should be the name of a file")
    below = file.parent / base
    if not is_file(below):  # for a user's copy of a shipped recipe
        below = {f.name: f for f in (*shipped("recipes"), *shipped("cluster"))}.get(base, below)
    if not is_file(below):
        raise UserError(f"{where}: {shown(str(below))}: no such file")
    return below
