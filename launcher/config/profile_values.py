"""Types of the values in a cluster profile: lines, paths, names of variables, durations, numbers of nodes."""

import os
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from launcher.config import env_vars
from launcher.config.atomic_files import expanded
from launcher.config.base_model import matching
from launcher.config.training import seconds

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(gt=0)]
Number = Annotated[float, Field(gt=0, le=1e12)]
Share = Annotated[float, Field(gt=0, le=1)]
_MAX_NODES = 10_000


def _node_range(value: object) -> object:
    """Convert a number of nodes, or a range such as `2:4`, to (minimum, maximum). Raises PydanticCustomError."""
    if isinstance(value, tuple | list):
        if len(value) != 2 or not all(type(bound) is int for bound in value):
            return tuple(value)
        minimum, maximum = value
    elif isinstance(value, int) and not isinstance(value, bool):
        minimum = maximum = value
    elif isinstance(value, str) and (found := re.fullmatch(r"(\d+):(\d+)", value)):
        minimum, maximum = int(found[1]), int(found[2])
    else:
        raise PydanticCustomError("nodes", "a number of nodes, or the least and the most, such as 2:4")
    if not 0 < minimum <= maximum:
        raise PydanticCustomError("nodes", "at least 1, and the least before the most, such as 2:4")
    if maximum > _MAX_NODES:
        raise PydanticCustomError("nodes", "{most} at the most", {"most": _MAX_NODES})
    return minimum, maximum


def _one_line(value: str) -> str:
    if not value or not value.isprintable():
        raise ValueError("should be one line of printable characters")
    return value


_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)\}|([A-Za-z_]\w*))")
STORED = "stored"
"""Key of the validation context. True: the profile is read from a run folder, and its variables are already
expanded."""


def _expand_variables(value: str, info: ValidationInfo) -> str:
    """Expand $NAME and ${NAME} from this shell's environment, and $$ to $.

    Scripts quote the result, so that nothing is expanded a second time. The value of a stored profile is returned
    unchanged. Raises PydanticCustomError if a variable is not set or has the name of a secret.
    """
    if (info.context or {}).get(STORED):
        return value

    def expand(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        name = found[2] or found[3]
        if env_vars.is_secret(name):
            what = f"${name} would stand in files of the run (name it in env_from)"
            raise PydanticCustomError("variable", "{what}", {"what": what})
        if name not in os.environ:
            advice = "variables are filled in from this shell; what a node sets belongs into slurm.setup"
            raise PydanticCustomError("variable", "{what}", {"what": f"${name} is not set here ({advice})"})
        return os.environ[name]

    return _VARIABLE.sub(expand, value)


def _expand_home(value: str) -> str:
    return str(expanded(value)) if value.startswith("~") else value


def _duration(value: object) -> object:
    if not isinstance(value, str):
        raise PydanticCustomError("duration", "should be a time (such as 90s, 10m, 2h, 1d)")
    seconds(value)
    return value


Line = Annotated[str, AfterValidator(_one_line)]
"""A value in one line. Scripts quote it."""
Filled = Annotated[Line, AfterValidator(_expand_variables)]
"""A line in which variables of this shell are expanded."""
Where = Annotated[Filled, AfterValidator(_expand_home)]
"""A path in which variables of this shell and ~ are expanded."""
Variable = Annotated[
    str,
    matching(r"[A-Za-z_][A-Za-z0-9_]*", "should be the name of a variable: letters, digits and _, no digit first"),
]
Duration = Annotated[
    str, BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(pattern=r"^[1-9][0-9]*[smhd]$")])
]
"""A time such as 90s, 10m, 2h or 1d."""
_NodesWritten = PositiveInt | Annotated[str, Field(pattern=r"^[0-9]+:[0-9]+$")] | tuple[PositiveInt, PositiveInt]
Nodes = Annotated[tuple[int, int], BeforeValidator(_node_range, json_schema_input_type=_NodesWritten)]


def refuse_variables(value: str) -> str:
    """Return the value. Raises PydanticCustomError if it holds a variable, because Slurm expands none."""
    if found := next((one for one in _VARIABLE.finditer(value) if not one[1]), None):
        what = f"{found[0]} would stay as it is: Slurm expands no variables (write its value)"
        raise PydanticCustomError("variable", "{what}", {"what": what})
    return value
