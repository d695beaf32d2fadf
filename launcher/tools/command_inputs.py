"""The recipe and the cluster profile of a command, parsed once. Every later step takes the parsed objects."""

import os
from collections.abc import Sequence
from pathlib import Path

from launcher.config import load
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe


def load_profile(cluster: str, overrides: Sequence[str] | None, *more: str) -> tuple[Cluster, list[str]]:
    """The cluster profile, and the overrides of the recipe. `more`: overrides of the profile that options stand for.
    Where the profile names a shared folder, prepared data is cached there. Raises UserError."""
    of_recipe, of_cluster = load.parted(overrides or [])
    profile = load.cluster(cluster, [*of_cluster, *more]).value
    if profile.scratch.shared is not None and Path(profile.scratch.shared).is_dir():
        os.environ.setdefault("LAUNCHER_CACHE", profile.scratch.shared)
    return profile, of_recipe


def load_both(recipe: str, overrides: Sequence[str] | None, cluster: str, *more: str) -> tuple[Loaded[Recipe], Cluster]:
    """The recipe and the cluster profile. `more`: overrides of the profile that options stand for. Raises
    UserError."""
    profile, of_recipe = load_profile(cluster, overrides, *more)
    return load.recipe(recipe, of_recipe), profile


def unpack(bundle: Path | None, recipe: str | None, overrides: Sequence[str] | None) -> tuple[str, list[str]]:
    """The recipe file to run and its overrides. A bundle becomes the cache of this process and of the ranks. Raises
    UserError."""
    if bundle is None:
        if recipe is None:
            raise UserError("RECIPE: missing (a recipe file, the name of a shipped one, or --from BUNDLE)")
        return recipe, list(overrides or [])
    if recipe is not None and "=" not in recipe:
        raise UserError(f"{recipe}: a bundle has a recipe of its own (leave it out; key=value overrides it)")
    from launcher.prepare import bundle as bundles

    file = bundles.recipe_of(bundle)
    os.environ["LAUNCHER_CACHE"] = str(bundle.absolute())
    return str(file), [*([recipe] if recipe else []), *(overrides or [])]


def checkpoint(name: str) -> str | int:
    """A checkpoint option: a step as a number, or latest or best."""
    return int(name) if name.isdigit() else name
