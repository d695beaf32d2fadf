"""The cluster profile: where to train. The section named like the kind, such as `slurm`, configures the scheduler."""

from collections.abc import Mapping
from typing import Literal

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from launcher.config import kinds, secret_values
from launcher.config.base_model import Strict, error_details, hint
from launcher.config.document import Document
from launcher.config.profile_values import (
    STORED,
    Auto,
    Duration,
    Filled,
    Line,
    Nodes,
    Number,
    PositiveInt,
    Share,
    Variable,
    Where,
)
from launcher.config.types import SchedulerConfig
from launcher.config.watchdog import Watchdog


class Scratch(Strict):
    """Folders for temporary and cached files."""

    shared: Where | None = None
    """Folder that all nodes share, for the cache of prepared data."""
    local: Where | None = None
    """Folder on each node's own disk, for files that live as long as the job."""


class Links(Strict):
    """Bandwidths and latencies of the network, for the predicted time of a step."""

    within_node: Number | None = None
    """GB per second and direction between two devices of one node."""
    between_nodes: Number | None = None
    """GB per second and direction that each device has to other nodes: those of a network port, divided by the devices
    that share it."""
    latency_within_node: Number = 2.0
    """Microseconds of a message within a node."""
    latency_between_nodes: Number = 5.0
    """Microseconds of a message between nodes."""


class Efficiency(Strict):
    """The parts of the profile's figures that a training reaches, for the predicted time of a step. Figures that were
    measured need 1."""

    arithmetic: Share = 0.8
    """Part of `peak_tflops`."""
    memory: Share = 0.8
    """Part of `memory_bandwidth`."""
    links: Share = 0.8
    """Part of the bandwidths of `links`."""


class Cluster(Strict):
    """Where to train."""

    name: str = "local"
    """Name of the profile."""
    kind: str = "local"
    """Scheduler that starts the ranks: a module of launcher/schedulers, or a dotted path to your own module."""
    nodes: Nodes = (1, 1)
    """Number of nodes, or the minimum and the maximum, such as 2:4. A job with a range continues on fewer nodes when
    some are lost."""
    devices_per_node: Auto | PositiveInt = "auto"
    """Ranks of a node. `auto`: one for each device found on this machine."""
    device: Auto | Literal["cpu", "cuda", "xpu", "mps"] = "auto"
    """Device type. `auto`: the one found on this machine. `mps` is refused, since it has no float64."""
    memory_per_device: Auto | Number = "auto"
    """GiB of memory of a device; for cpu, of the whole machine. `auto`: measured on this machine, not checked on
    others."""
    peak_tflops: Auto | Number = "auto"
    """Peak TFLOP/s of one device in the recipe's precision, from which the plan estimates the training time. `auto`:
    the figure of the data sheet for a known device of this machine, else no estimate."""
    interface: Line = "auto"
    """Network interface for gloo and NCCL, or `auto`."""
    env: dict[Variable, Filled | Literal[""]] = {}
    """Environment variables of the ranks. They are written into the run folder, so that values which look like secrets
    are refused."""
    env_from: list[Variable] = []
    """Names of variables, such as WANDB_API_KEY, whose values the ranks get from the environment of the command that
    starts or submits the run. The values are written nowhere."""
    max_restarts: int = Field(0, ge=0)
    """Maximum number of restarts of a start after a failed rank. A failure that returns at the same step ends the run
    earlier."""
    restart_window: Duration | None = None
    """Time without a failure, such as 1h, after which restarts count from 0 again. Default: `max_restarts` holds for
    the whole start."""
    timeout: Number = 30
    """Minutes that ranks wait for each other before they fail."""
    watchdog: Watchdog = Watchdog()
    """Detection of ranks that hang."""
    hours_between_failures: Number | None = None
    """Mean hours between failures of one node."""
    price_per_hour: Number | None = None
    """Price of one node for an hour, in any currency, from which the plan computes the cost of the run."""
    memory_bandwidth: Auto | Number = "auto"
    """GB per second of a device's own memory, for the predicted time of a step. `auto`: the figure of the data sheet
    for a known device of this machine, else no prediction."""
    links: Links = Links()
    """Network bandwidths and latencies."""
    efficiency: Efficiency = Efficiency()
    """The parts of these figures that a training reaches."""
    scratch: Scratch = Scratch()
    """Folders for temporary and cached files."""
    _scheduler: SchedulerConfig = PrivateAttr()
    _reference: str = PrivateAttr("local")
    _document: Document | None = PrivateAttr(None)
    _overrides: tuple[str, ...] = PrivateAttr(())

    @property
    def scheduler(self) -> SchedulerConfig:
        """Config of the scheduler: the section with the name of the kind, such as `slurm`."""
        return self._scheduler

    def with_scheduler(self, config: SchedulerConfig) -> "Cluster":
        """Return this profile with another Config of its scheduler."""
        changed = self.model_copy()
        changed._scheduler = config
        return changed

    @property
    def section(self) -> str:
        """Name of the section with the scheduler's options."""
        return self.kind.rpartition(".")[2]

    @property
    def reference(self) -> str:
        """The value of --cluster: a file, or the name of a shipped profile."""
        return self._reference

    def place(self, key: str) -> str:
        """Return what a message about a key begins with: its file and line, or its override, and the key."""
        where = f"--cluster {self.reference}" if self._document is None else self._document.origin((key,))
        return f"{where}: {key}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides of the profile on the command line, such as cluster.slurm.time=30."""
        return self._overrides

    @property
    def elastic(self) -> bool:
        """Whether the job continues on fewer nodes when some are lost."""
        return self.nodes[0] < self.nodes[1]

    @classmethod
    def _sections(cls) -> set[str]:
        return set(kinds.available("schedulers")) - {"local"}  # local has no options

    @model_validator(mode="wrap")  # type: ignore[arg-type, unused-ignore]  # whether mypy infers the model varies
    @classmethod
    def _with_scheduler(
        cls, value: object, handler: ModelWrapValidatorHandler["Cluster"], info: ValidationInfo
    ) -> "Cluster":
        """Validate the scheduler's section and the other keys, and report all mistakes at once."""
        if not isinstance(value, dict) or not isinstance(kind := value.get("kind", "local"), str):
            return handler(value)
        section = kind.rpartition(".")[2]
        sections = {name: value[name] for name in {*cls._sections(), section} if name in value}
        errors, cluster, scheduler = list[InitErrorDetails](), None, None
        try:
            cluster = handler({key: item for key, item in value.items() if key not in sections})
        except ValidationError as error:
            errors += error_details(error)
        try:
            scheduler = _scheduler(kind, sections.get(section), info.context)
        except ValidationError as error:
            errors += error_details(error, section)
        except kinds.KindError as error:
            unknown = PydanticCustomError("kind", "{what}", {"what": str(error)})
            errors.append(InitErrorDetails(type=unknown, loc=("kind",), input=kind))
        if cluster is not None:
            errors += cluster._env_problems(stored=bool((info.context or {}).get(STORED)))
        if errors or cluster is None or scheduler is None:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        cluster._scheduler = scheduler
        others = [name for name, item in sections.items() if name != section and item is not None]
        if conflicts := cluster._conflicts(others):
            raise ValidationError.from_exception_data(cls.__name__, [_detail(key, what) for key, what in conflicts])
        return cluster

    def _env_problems(self, stored: bool) -> list[InitErrorDetails]:
        """Return mistakes in the variables. `stored`: the profile is read from a run folder, where an earlier version
        of the launcher may have written secrets."""
        found = (
            {} if stored else {n: secret_values.ADVICE for n, v in self.env.items() if secret_values.is_secret(n, v)}
        )
        found |= {name: "is in env_from too (take it out of one)" for name in self.env if name in self.env_from}
        return [
            InitErrorDetails(type=PydanticCustomError("env", "{what}", {"what": what}), loc=("env", name), input=None)
            for name, what in found.items()
        ]

    def passed_on(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of `env_from` that are set in an environment."""
        return {name: environment[name] for name in self.env_from if name in environment}

    def _conflicts(self, others: list[str]) -> list[tuple[str, str]]:
        """Return the keys that contradict others, each with a message. `others`: sections of other kinds."""
        found = [(name, f"is of a cluster of kind {name}, and this one is {self.kind}") for name in others]
        if what := self.scheduler.check_nodes(*self.nodes):
            found.append(("nodes", what))
        if not self.scheduler.on_this_machine:
            needed = {"device": self.device, "devices_per_node": self.devices_per_node}
            if missing := [key for key, value in needed.items() if value == "auto"]:
                what = f"cannot be found from here for a cluster of kind {self.kind} (write them down)"
                found.append(("kind", f"{', '.join(missing)}: {what}"))
        return found

    @model_serializer(mode="wrap")
    def _with_section(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        section = self.scheduler.model_dump(mode="json", exclude={"kind"})
        return {**handler(self), **({self.section: section} if section else {})}


def _detail(key: str, what: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("cluster", "{what}", {"what": what}), loc=(key,), input=None)


def _scheduler(kind: str, section: object, context: object) -> SchedulerConfig:
    """Validate a scheduler's section as the Config of its kind.

    `section`: None if the profile has none. Raises kinds.KindError, or ValidationError for mistakes in the section.
    """
    config = kinds.config_class("schedulers", kind, SchedulerConfig)
    name = kind.rpartition(".")[2]
    if name in Cluster.model_fields:
        raise kinds.KindError(f"kind {kind!r}: {name} is another key of a profile (rename the module)")
    required = [key for key, field in config.model_fields.items() if field.is_required() and key != "kind"]
    if section is None and required:
        missing = PydanticCustomError("missing", "missing (its {keys})", {"keys": ", ".join(required)})
        details = InitErrorDetails(type=missing, loc=(), input=None)
        raise ValidationError.from_exception_data(config.__name__, [details])
    if isinstance(section, dict) and "kind" in section:
        advice = hint("kind", {*config.model_fields} - {"kind"})
        unknown = PydanticCustomError("unknown_key", "unknown key ({hint})", {"hint": advice})
        details = InitErrorDetails(type=unknown, loc=("kind",), input=None)
        raise ValidationError.from_exception_data(config.__name__, [details])
    options = {} if section is None else section
    keys = {**options, "kind": kind} if isinstance(options, dict) else options
    return config.model_validate(keys, context=context)
