"""Services outside the cluster: the Hugging Face hub, or what is prepared for work without it, and wandb's key."""

import netrc
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from launcher.config import paths
from launcher.health.finding import Check, Finding

_HUB, _WANDB = Check("services", "hub"), Check("services", "wandb key")
WANDB_KEY = "WANDB_API_KEY"
_SECONDS = 5.0
_TRUE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class Prepared:
    """What the cache has for work without the hub."""

    models: int
    datasets: int


def prepared(cache: Path) -> Prepared:
    """Return how many models and prepared data sets a cache has. It need not exist."""
    counts = []
    for name in (paths.MODELS, paths.PREPARED):
        try:
            counts.append(sum(not entry.name.startswith(".") for entry in (cache / name).iterdir() if entry.is_dir()))
        except OSError:
            counts.append(0)
    return Prepared(*counts)


def hub_error(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return why no connection to the hub is possible, or to the proxy in front of it; None: one is."""
    address = hub_address(environment)
    proxy = environment.get("https_proxy") or environment.get("HTTPS_PROXY") or ""
    parts = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else urlsplit(address)
    with suppress(ValueError):
        port = parts.port or (80 if parts.scheme == "http" else 443)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=_SECONDS).close()
            return None
        except (OSError, UnicodeError) as error:
            return f"{parts.hostname} cannot be reached: {getattr(error, 'strerror', None) or error}"
    return "its address cannot be read"


def hub_address(environment: Mapping[str, str] = os.environ) -> str:
    return environment.get("HF_ENDPOINT") or "https://huggingface.co"


def is_offline(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment forbids the use of the hub."""
    return any(environment.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def hub_findings(offline: bool, error: str | None, address: str, cached: Prepared) -> list[Finding]:
    """Return the finding about the hub. `error`: why it cannot be reached; None: it can."""
    have = f"{cached.models} models and {cached.datasets} data sets are in the cache"
    if offline:
        return [_HUB.ok(f"HF_HUB_OFFLINE is set; {have}")]
    if error is None:
        return [_HUB.ok(f"{urlsplit(address).hostname} answers; {have}")]
    cure = "prepare where it can be reached (launcher prepare R --to BUNDLE), then launcher run --from BUNDLE"
    return [_HUB.warning(f"{error}; {have}", cure)]


def wandb_key_place(environment: Mapping[str, str] = os.environ) -> str:
    """Return where a key of wandb is; empty: nowhere. The key itself is not kept."""
    if environment.get(WANDB_KEY):
        return WANDB_KEY
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = Path(environment.get("NETRC", "~/.netrc"))
    with suppress(OSError, netrc.NetrcParseError, RuntimeError):
        if netrc.netrc(str(file.expanduser())).authenticators(host):
            return str(file)
    return ""


def wandb_findings(place: str, passed_on: bool, elsewhere: bool) -> list[Finding]:
    """Return the finding about wandb's key. `passed_on`: whether env_from has its name. `elsewhere`: whether the ranks
    run on other machines."""
    if not place:
        cure = f"wandb login, or set {WANDB_KEY}; not needed for sinks without wandb, or its mode offline"
        return [_WANDB.warning("neither the environment nor ~/.netrc has one", cure)]
    if elsewhere and place == WANDB_KEY and not passed_on:
        what = f"{WANDB_KEY} is set here, and the ranks on other machines do not get it"
        return [_WANDB.warning(what, f"add env_from: [{WANDB_KEY}] to the profile")]
    return [_WANDB.ok(f"present in {place}")]
