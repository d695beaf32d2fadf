"""Versions that belong together: what the installed packages and this project require of each other."""

import functools
import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

import launcher
from launcher.config.format import plural
from launcher.health.finding import Check, Finding

PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "datasets", "peft", "tokenizers", "flash-attn")
"""Packages whose own requirements are checked."""
_SHOWN = ("torch", "transformers", "deepspeed", "accelerate", "datasets")
_CHECK, _DEEPSPEED = Check("software", "packages"), Check("software", "deepspeed")
_IMPORT_SECONDS = 180.0
_MARK = "launcher.doctor: "
_IMPORT = f"import deepspeed; print({_MARK!r} + deepspeed.__version__)"


@dataclass(frozen=True)
class Installed:
    """An installed package. `requires`: its requirements."""

    version: str
    requires: tuple[str, ...] = ()


@functools.cache
def project() -> tuple[str, ...]:
    """Return the requirements of this project, those of extras with their marker: of the checkout, else of the
    installed package."""
    file = Path(launcher.__file__).parents[1] / "pyproject.toml"
    with suppress(OSError, KeyError, tomllib.TOMLDecodeError):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        if project["name"] == "launcher":
            extras = project["optional-dependencies"]
            of_extras = [f"{line} ; extra == '{extra}'" for extra, lines in extras.items() for line in lines]
            return (*project["dependencies"], *of_extras)
    with suppress(importlib.metadata.PackageNotFoundError):
        return tuple(importlib.metadata.requires("launcher") or ())
    return ()


def installed() -> dict[str, Installed]:
    """Return the installed packages that are required here, by name: the first of each name on the module search
    path."""
    names: set[str] = {canonicalize_name(name) for name in (*PACKAGES, *_required(project()))}
    found = {name: one for name in names if (one := _installed(name)) is not None}
    needed = {other for name in PACKAGES if name in found for other in _required(found[name].requires)}
    return found | {name: one for name in needed - set(found) if (one := _installed(name)) is not None}


def _installed(name: str) -> Installed | None:
    try:
        of_name = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Installed(of_name.version or "", tuple(of_name.requires or ()))


def _required(lines: Iterable[str]) -> list[str]:
    return [canonicalize_name(requirement.name) for line in lines if (requirement := _parsed(line)) is not None]


def _parsed(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def conflicts(found: Mapping[str, Installed], project: Iterable[str]) -> list[str]:
    """Return a sentence for each requirement that is not fulfilled.

    `project`: requirements of the launcher. Those of an extra hold for packages that are installed.
    """
    lines = [("this launcher", line) for line in project]
    lines += [(f"{name} {found[name].version}", line) for name in PACKAGES if name in found
              for line in found[name].requires]  # fmt: skip
    problems = (_conflict(who, line, found, extras=who == "this launcher") for who, line in lines)
    return list(dict.fromkeys(filter(None, problems)))


def _conflict(who: str, line: str, found: Mapping[str, Installed], extras: bool) -> str:
    """Return why a requirement is not fulfilled; empty: it is, or does not apply. `extras`: whether those of extras
    apply to installed packages."""
    required = _parsed(line)
    if required is None:
        return ""
    package = found.get(canonicalize_name(required.name))
    plain = required.marker is None or required.marker.evaluate({"extra": ""})
    if not plain and not (extras and package is not None):
        return ""
    wanted = f"{required.name}{required.specifier}"
    if package is None:
        return f"{who} requires {wanted}, which is not installed"
    try:
        fits = required.specifier.contains(Version(package.version), prereleases=True)
    except InvalidVersion:
        return f"{required.name} has no version that can be read ({package.version[:40] or 'empty'})"
    return "" if fits else f"{who} requires {wanted}, and {package.version} is installed"


def findings(found: Mapping[str, Installed], project: Iterable[str]) -> list[Finding]:
    """Return the findings about versions."""
    shown = [f"{name} {found[name].version}" for name in _SHOWN if name in found]
    wrong = conflicts(found, project)
    if not wrong:
        return [_CHECK.ok(f"{', '.join(shown)}; {plural(len(found), 'package')} fit together")]
    cure = "install what fits: pip install -c constraints.txt '.[deepspeed]', or as the sentence says"
    return [_CHECK.failure(line, cure) for line in wrong[:8]] + (
        [_CHECK.failure(f"{len(wrong) - 8} more requirements are not fulfilled", cure)] if len(wrong) > 8 else []
    )


@dataclass(frozen=True)
class Imported:
    """An import of deepspeed in a child process. `version`: as the module gives it; `error`: why it failed."""

    version: str = ""
    error: str = ""


def import_deepspeed() -> Imported:
    """Import deepspeed in a child process that has the module search path of this process."""
    code = f"import sys; sys.path[:] = {sys.path!r}; {_IMPORT}"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=_IMPORT_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Imported(error=f"it has not ended in {_IMPORT_SECONDS:.0f} s")
    versions = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode == 0 and versions:
        return Imported(version=versions[-1])
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return Imported(error=(lines or [f"exit code {done.returncode}"])[-1][:200])


def deepspeed_findings(version: str, imported: Imported) -> list[Finding]:
    """Return the finding about an installed deepspeed. `version`: of its package."""
    cure = "install it anew (pip install --force-reinstall deepspeed), or use strategy ddp or fsdp"
    if imported.error:
        return [_DEEPSPEED.failure(f"deepspeed {version} cannot be imported: {imported.error}", cure)]
    if imported.version.partition("+")[0] != version.partition("+")[0]:
        what = f"the module is {imported.version}, its package says {version}: another copy is found first"
        return [_DEEPSPEED.failure(what, "remove one of them from sys.path (PYTHONPATH, or the user's site-packages)")]
    return [_DEEPSPEED.ok(f"deepspeed {version} can be imported")]


def nccl_findings(built: str, package: str) -> list[Finding]:
    """Return the finding about NCCL. `built`: version that torch uses; `package`: version of its nvidia-nccl package;
    each empty if there is none."""
    check = Check("software", "NCCL")
    if not built:
        return []
    if package and not package.startswith(built):
        what = f"torch uses NCCL {built}, and its package is {package}: another library is loaded first"
        return [check.warning(what, "unset LD_LIBRARY_PATH or LD_PRELOAD where they name another libnccl.so")]
    return [check.ok(f"NCCL {built}")]
