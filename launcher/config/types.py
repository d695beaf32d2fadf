"""Base classes of the Configs of plug-ins.

The launcher reads their properties before it loads a plug-in. A kind overrides the defaults that do not fit it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    Field,
)
from pydantic_core import PydanticCustomError

from launcher.config.base_model import Strict as Strict

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.config.errors import Problem
    from launcher.config.model import ModelConfig
    from launcher.config.recipe import Recipe


JsonObject = dict[str, Any]
"""A JSON object: texts as keys, and values of JSON."""


class HubRepository(NamedTuple):
    """A repository of the Hugging Face hub, or a local folder in its place. `revision`: a branch, tag or commit."""

    name: str
    revision: str | None = None
    trust_remote_code: bool = False


class RunReference(NamedTuple):
    """A checkpoint of another run. `weights`: whether its weights are loaded, not only its architecture. `adapter`:
    whether an adapter is trained beside these weights."""

    run: str
    checkpoint: Literal["latest", "best"] | int = "latest"
    weights: bool = True
    adapter: bool = False


class Plugin(Strict):
    """Configuration of a plug-in."""

    kind: str
    """Name of the kind, which is its module's name, or a dotted path to your own module."""

    optional_modules: ClassVar[tuple[str, ...]] = ()
    """Optional modules that the kind imports. The launcher's extra that installs them has the name of the kind."""

    @property
    def runs_own_code(self) -> bool:
        """Whether the plug-in runs the user's own code, so that facts about it must not be cached."""
        return "." in self.kind

    @property
    def hub_repository(self) -> HubRepository | None:
        """Hub repository that the plug-in loads; None: no repository.

        The Config must have the keys `name` and `revision`: when a run first starts, the revision is pinned to a
        commit.
        """
        return None

    @property
    def run_reference(self) -> RunReference | None:
        """Checkpoint of another run that the plug-in loads; None: no checkpoint.

        The Config must have the keys `run` and `checkpoint`: when a run first starts, the checkpoint is pinned to a
        step.
        """
        return None


class StrategyConfig(Plugin):
    """Configuration of a strategy."""

    @property
    def tensor_degree(self) -> int:
        """Number of neighbouring ranks that share each sample."""
        return 1


class SchedulerConfig(Plugin):
    """The Config of a scheduler: the section of a cluster profile with the name of its kind."""

    on_this_machine: ClassVar[bool] = False
    """Whether the ranks run on this machine, so that its devices can be detected."""

    deadline_advice: ClassVar[str] = ""
    """What may be wrong in the profile if a job reaches its deadline before its first checkpoint."""

    @property
    def cores_per_node(self) -> int | None:
        """CPU cores that the ranks of a node share; None: unknown."""
        return None

    def job_id(self, environment: Mapping[str, str]) -> str:
        """Return the scheduler's id of a node's job; empty: the id that the job was submitted under.

        A scheduler that continues a job under other ids overrides it. `environment`: variables of the node.
        """
        return ""

    def check_nodes(self, minimum: int, maximum: int) -> str | None:
        """Return why a job cannot have this number of nodes; None: it can."""
        return None

    def problems(self, recipe: "Recipe", cluster: "Cluster") -> "list[str | Problem]":
        """Return the conflicts between the recipe, the profile and the scheduler's own limits."""
        return []

    def notes(self, cluster: "Cluster") -> list[str]:
        """Return remarks about the profile, to be shown with the plan."""
        return []


class TaskConfig(Plugin):
    """Configuration of a task. Other modules read its properties. A kind overrides the defaults that do not fit it."""

    @property
    def held(self) -> "TaskConfig":
        """The task that defines the samples: this one, or the inner task if this one wraps another."""
        return self

    @property
    def teacher_model(self) -> "ModelConfig | None":
        """Config of another model that the task evaluates, such as a teacher; None: no such model.

        The Config is the value of one of the task's keys.
        """
        return None

    @property
    def teacher_key(self) -> str:
        """Key that holds `teacher_model`. Raises TypeError if none does: the task then has to override this."""
        teacher = self.teacher_model
        for name, value in self:
            if value is teacher:
                return name
        raise TypeError(f"{type(self).__name__}.teacher_model is the value of no key (override teacher_key)")

    def with_teacher(self, teacher: "ModelConfig") -> Self:
        """Return the same task with another `teacher_model`."""
        return self.model_copy(update={self.teacher_key: teacher})

    @property
    def joins_documents(self) -> bool:
        """Whether samples are cut from joined documents."""
        return False

    @property
    def packs_rows(self) -> bool:
        """Whether several samples share a row of a micro-batch."""
        return False

    @property
    def overlap(self) -> int:
        """Number of tokens that neighbouring samples of one text share."""
        return 0

    @property
    def longest_target(self) -> int:
        """Maximum number of tokens of a decoder's target; 0: samples have no target."""
        return 0

    @property
    def generates(self) -> bool:
        """Whether evaluation and prediction generate texts."""
        return False

    @property
    def sets_length(self) -> bool:
        """Whether the task defines the number of generated tokens."""
        return self.generates

    @property
    def multi_label(self) -> bool:
        """Whether a sample may have any number of labels."""
        return False

    def odd_values(self) -> dict[str, str]:
        """Return the keys whose values are allowed and rarely meant, each with the reason and, in parentheses, a
        remedy, for the plan to warn of."""
        return {}

    @property
    def normalization(self) -> tuple[list[float], list[float]] | None:
        """Means and standard deviations of image channels; None: samples are no images."""
        return None


class OptimizerConfig(Plugin):
    """Keys of every optimiser. Biases and normalization weights have no weight decay."""

    lr: float = Field(gt=0)
    """Learning rate, which the schedule multiplies."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay, with no effect on biases and normalization weights."""
    clip: float | None = Field(1.0, gt=0)
    """Maximum norm of the gradient over all parameters; null: no clipping."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Ratio of a layer's learning rate to that of the next layer (Howard and Ruder, 2018; Clark et al., 2020). The head
    has `lr`, the embeddings the smallest rate."""

    adam_like: ClassVar[bool] = False
    """Whether an update changes a weight by about `lr`, as Adam's does, so that Adam's usual learning rates hold."""

    elementwise: ClassVar[bool] = True
    """Whether each number is updated independently of the others, so that updating a shard equals updating the whole
    tensor."""

    def moments(self, in_layers: float) -> float:
        """Return the size of the optimiser's state, relative to the size of the weights.

        `in_layers`: fraction of the weights that belong to repeated layers.
        """
        return 2.0


def _whole_steps(value: float) -> float:
    if value >= 1 and value != int(value):
        raise PydanticCustomError("span", "is a fraction below 1 or a whole number of steps")
    return value


Beta = Annotated[float, Field(ge=0, lt=1)]
"""A decay rate of a running mean."""
Span = Annotated[float, Field(ge=0), AfterValidator(_whole_steps)]
"""A part of a run: a fraction of its steps (below 1), or a number of steps."""
Floor = Annotated[float, Field(ge=0, le=1)]
"""The lowest factor of the learning rate."""


class ScheduleConfig(Plugin):
    """Keys of every schedule. A schedule is a factor of the learning rate."""

    warmup: Span = 0.0
    """Length of a linear warmup from 0 to `lr`: a fraction of the run's steps (below 1) or a number of steps."""

    uses_evaluations: ClassVar[bool] = False
    """Whether the factor depends on the results of evaluations."""
