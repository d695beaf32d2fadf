"""The watchdog's section of a cluster profile: when a rank counts as hung, and the reaction."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from launcher.config import env_vars
from launcher.config.base_model import Strict

AUTO_SECONDS = 60.0
"""Seconds of `watchdog.seconds: auto`."""


class Watchdog(Strict):
    """Detection of ranks that hang. A rank hangs if the ranks furthest behind make no progress for too long."""

    seconds: Literal["auto", "off"] | Annotated[float, Field(gt=0, le=1e6)] = "auto"
    """Seconds without progress after which a rank counts as hung, at least. `auto`: 60. The limit is five times the
    longest pause so far in the same stage of a step if that is longer (two times that of its first visit). It is ten
    times these seconds in a stage that a rank enters for the first time, and half of `timeout` if that is longer at the
    start, in a save and for metrics; the last save has no limit. `off`: hangs are not detected, and ranks wait for
    `timeout`."""
    action: Literal["restart", "fail", "report"] = "restart"
    """Reaction to a hang. `restart`: the ranks are ended and started again, if `max_restarts` allows it, else the run
    fails. `fail`: the run fails. `report`: the hang is only logged."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Watchdog":
        """Return the watchdog of ranks that are started without a cluster profile. A variable may set `seconds`; a
        value that is no such is ignored."""
        seconds = environment.get(env_vars.WATCHDOG, "auto")
        try:
            return cls.model_validate({"seconds": seconds if seconds in ("auto", "off") else float(seconds)})
        except ValueError:
            return cls()

    @property
    def least(self) -> float | None:
        """The lower bound of the limit in seconds; None: the watchdog is off."""
        if self.seconds == "off":
            return None
        return AUTO_SECONDS if self.seconds == "auto" else self.seconds
