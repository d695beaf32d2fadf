"""Tasks: what a model learns.

Each kind is one module of this package. It defines a `Config` (a subclass of `launcher.config.types.TaskConfig`) and a
class `Task` that extends `Task[Config]` below. There is no other registration. A user's own task is a module elsewhere,
and a recipe names it by its dotted path. Import torch inside functions, because a plan imports the module on a login
node.

The contract of a task:

- Samples are dicts of numpy arrays (`input_ids`, `labels`, ...) without padding, after augmentation. The digest hashes
  them. So each must be a pure function of the row and its (seed, epoch, id).
- A task never divides. `loss` returns a sum, and `weight` what a sample adds to the divisor. So neither the number of
  ranks nor the micro-batches change the result.
- Metrics are computed once, from the outputs for all validation samples, which are gathered from all ranks in the order
  of the samples. So they are equal to the last digit on any number of ranks.

A task that wraps another task (`task` in its Config, as in distillation) uses the samples of the inner task.
Preparation calls the methods of the inner task, except for `check`, which it calls on the wrapping task (see
Recipe.inner_task).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from launcher.config.types import JsonObject as JsonObject
from launcher.config.types import TaskConfig
from launcher.prepare.feature_context import FeatureContext as FeatureContext

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from launcher.contract.random import Draw
    from launcher.plan.facts import Facts

Row = dict[str, Any]
"""One row of prepared features: a numpy array for each list column, a scalar for each other column."""
Array = NDArray[Any]
Sample = dict[str, Array]
Batch = dict[str, Any]
"""A micro-batch: arrays, or maps of arrays, by name. `inputs`: keyword arguments of the model's forward. `collate`
returns numpy arrays; the other methods receive torch tensors."""
BatchOutputs = dict[str, Any]
"""Outputs of `Task.predict` for a micro-batch, by name. Each is a tensor of shape (samples, ...), or a list of one
array for each sample. `loss`, summed over each sample, and `weight` are among them."""
Outputs = dict[str, list[Any]]
"""Outputs of `Task.predict` for many samples, by name: lists of one value or array for each sample, in their order."""
Directions = dict[str, Literal["min", "max"]]
"""Whether a lower (`min`) or a higher (`max`) value of a metric is better, by the metric's name."""

IGNORE = -100
"""Label without weight in the loss: the default `ignore_index` of torch's cross_entropy."""

ConfigT = TypeVar("ConfigT", bound=TaskConfig, default=TaskConfig)


class Features(NamedTuple):
    """Prepared samples.

    table: one row for each sample.
    empty: number of rows without a token; they have no sample.
    cut: what truncation removed from each row of the batch, as arrays of shape (rows,). `rows`, `targets` and
        `questions`: 1 if the text was truncated, else 0. `words` and `labels` (other than O): the number removed.
    """

    table: "pa.Table"
    empty: int = 0
    cut: Mapping[str, NDArray[np.integer]] = {}


class Task(ABC, Generic[ConfigT]):
    """A task. Preparation calls its static methods; training creates an instance on each rank, with the facts of the
    prepared data."""

    columns: tuple[str, ...]
    """Columns that a row needs (see launcher.data)."""
    target_columns: tuple[str, ...] = ()
    """Columns that only training and evaluation need: rows to predict may lack them."""
    survey_columns: tuple[str, ...] = ()
    """Columns whose distinct values `survey` receives, such as labels. The value of an image is its shape (`28x28x1`),
    that of a list of numbers its length."""
    tokenized: bool = True
    """Whether samples consist of tokens. If not, there is no tokenizer, and the length of a sample is 1."""
    auto_class: str = ""
    """The transformers auto class of the model, such as AutoModelForMaskedLM; empty: any model that takes the
    inputs."""
    needs_initial_model: bool = False
    """Whether metrics compare the model with the initial model of the run. If so, an export has no metrics."""
    whole_outputs: bool = True
    """Whether training needs all outputs of the head at once. If not, the loss is computed in blocks."""
    distillable: bool = False
    """Whether `logits` and `loss_from_logits` work, and each entry of `batch["labels"]` is one of several classes."""
    has_top_predictions: bool = False
    """Whether `top_predictions` is implemented."""
    padding_free: bool = False
    """Whether `concatenate` is implemented."""
    length_multiple: int = 1
    """Padded micro-batches have a multiple of this length, or the length of the longest sample. A rank sets it."""
    uses_tokenizer: bool = False
    """Whether training decodes tokens, with the attribute `tokenizer`."""
    tokenizer: "PreTrainedTokenizerBase | None" = None

    # --- preparation

    @classmethod
    def required_columns(cls, config: ConfigT) -> tuple[str, ...]:
        """Return the columns that a row needs: `columns`, unless they depend on the configuration."""
        return cls.columns

    @staticmethod
    @abstractmethod
    def preparation_key(config: ConfigT) -> JsonObject:
        """Return the settings that prepared samples depend on. `features` names their format. Tasks with equal settings
        share prepared data."""

    @staticmethod
    def survey(config: ConfigT, values: Mapping[str, set[str]]) -> JsonObject:
        """Return the `labels`, in their order, and the `shape` of samples, if the task has them. values: the distinct
        training values of each of `survey_columns`. Raises UserError."""
        return {}

    @staticmethod
    def sample_shape(config: ConfigT) -> tuple[int, ...]:
        """Return the expected shape of a sample, for a plan made before the data is read; () for a tokenized task."""
        return ()

    @staticmethod
    @abstractmethod
    def features(config: ConfigT, rows: "Iterable[pa.RecordBatch]", context: FeatureContext) -> Iterator[Features]:
        """Convert rows of the required columns into tables of samples.

        A table has an int32 column `length`, a list column `input_ids` if samples consist of tokens, and the other
        columns that `samples` reads. No sample exceeds `context.max_length` tokens. Rows without the target columns get
        labels without weight. Called once for each part of a source, in parallel processes. Raises UserError.
        """

    @staticmethod
    def count_labels(config: ConfigT, training: "Iterable[pa.Table]", classes: int) -> list[int]:
        """Return the number of training samples of each label; empty if there are no labels."""
        return []

    @staticmethod
    @abstractmethod
    def baseline(config: ConfigT, validation: "Iterable[pa.Table]", special_ids: Sequence[int]) -> dict[str, float]:
        """Return validation scores, by name, of a model that only knows the frequencies of labels or tokens."""

    @staticmethod
    def describe_labels(config: ConfigT, facts: "Facts") -> str:
        """Return one line about the labels of the training data, for a plan; empty: there is no line."""
        return ""

    @staticmethod
    def named_tokens(config: ConfigT) -> Sequence[str]:
        """Return the tokens that the configuration names. Preparation stores their ids in `facts.token_ids`."""
        return ()

    @staticmethod
    def check(config: ConfigT, facts: "Facts", folder: Path) -> None:
        """Check the configuration against the prepared data. folder: of the data, with the tokenizer in tokenizer/.
        Raises UserError."""

    # --- training, on each rank

    def __init__(self, config: ConfigT, facts: "Facts"):
        self.config, self.facts = config, facts

    def model_options(self) -> JsonObject:
        """Return the keys of the model's configuration that the task sets, such as num_labels."""
        return {}

    def generation_options(self) -> JsonObject:
        """Return the keys of transformers' generation configuration that the task sets, such as max_new_tokens."""
        return {}

    @abstractmethod
    def output_size(self, length: int) -> float:
        """Return the number of values that the head outputs for a sample of `length` tokens, to estimate memory."""

    @abstractmethod
    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: "Draw") -> list[Sample]:
        """Build one sample from each row. epochs, ids: those of each row, which determine its random draws together
        with `draw`."""

    @abstractmethod
    def weight(self, sample: Sample) -> float:
        """Return the sample's part of the divisor of the global batch's loss."""

    @abstractmethod
    def zero_weight(self, sample: Sample) -> Sample:
        """Return a copy of the sample with weight 0."""

    def pack(self, samples: Sequence[Sample]) -> Sample:
        """Concatenate samples into one row of a micro-batch, for a configuration with `samples: packed`."""
        raise NotImplementedError

    @classmethod
    def packing_error(
        cls, model: "torch.nn.Module", documents: "Sequence[torch.Tensor]", pad_token_id: int
    ) -> str | None:
        """Return the reason why a model cannot take packed rows; None: it can. Only for tasks with `pack`. model: in
        eval mode; a plan passes a tiny copy. documents: token ids, each of shape (length,)."""
        raise NotImplementedError

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Pad samples into a micro-batch of numpy arrays of shape (samples, longest)."""

    def concatenate(self, samples: Sequence[Sample]) -> Batch:
        """Put samples side by side into one row without padding, as numpy arrays (see launcher.tasks._sequences)."""
        raise NotImplementedError

    def prepare_model(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        """Adapt the unwrapped model to the task, in place, and return notes for the user. batch: a micro-batch for a
        trial forward. Raises UserError if the model does not suit the task."""
        return []

    def frozen_models(self) -> "list[torch.nn.Module]":
        """Return further models that run on the same batches, such as a teacher; empty before `prepare_model`."""
        return []

    @abstractmethod
    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor | float]":
        """Return the summed loss of a micro-batch, a scalar tensor, and the weight of the micro-batch.

        Training calls it while the device computes what came before. Reading a value of a tensor here (`float`,
        `.item()`, an index by a mask) makes the host wait. So `collate` prepares indices, and the weight may stay a
        tensor.
        """

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Return the model outputs from which the loss is computed. For a distillable task: shape (n, classes), for the
        n entries of `batch["labels"]` (IGNORE: no label)."""
        raise NotImplementedError

    def loss_from_logits(self, logits: "torch.Tensor", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor | float]":
        """Return the result of `loss`, given that of `logits`."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, model: "torch.nn.Module", batch: Batch) -> BatchOutputs:
        """Return the outputs for each sample of a micro-batch."""

    def host_outputs(self, outputs: BatchOutputs) -> BatchOutputs:
        """Return the outputs of `predict` in their final form, given those with tensors on the host; by default as they
        are. What needs values of tensors belongs here, so that `predict` does not wait for the device."""
        return outputs

    @abstractmethod
    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """Return the metrics of all samples by name, `loss` among them. Every rank calls it with the same outputs."""

    @abstractmethod
    def directions(self) -> Directions:
        """Return the direction of every metric; metrics of one class (`f1/cat`) may be left out."""

    def generate(self, model: "PreTrainedModel", batch: Batch) -> list[NDArray[np.int64]]:
        """Generate token ids for each sample. model: unwrapped, in eval mode. Called if the configuration has
        `generates`; the result is added to the outputs of `predict` as `generated`."""
        raise NotImplementedError

    def generation_metrics(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> dict[str, float]:
        """Return further metrics by name, computed from the generated texts."""
        return {}

    @abstractmethod
    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        """Return a prediction for each sample. tokenizer: None if the task is not tokenized."""

    def merge_predictions(self, predictions: Sequence[JsonObject]) -> JsonObject:
        """Return the prediction for a row. predictions: those for the samples of the row, at least one."""
        return predictions[0] if len(predictions) == 1 else {"parts": list(predictions)}

    def top_predictions(self, outputs: Outputs, count: int) -> list[list[JsonObject]]:
        """Return the `count` most probable answers of each sample with their probabilities, the best first."""
        raise NotImplementedError

    def report(self, outputs: Outputs) -> JsonObject:
        """Return further results by name; each is optional.

        classes: precision, recall, f1 and support by label. confusion: a row for each true label. labels: those of
        confusion. examples: a list of maps.
        """
        return {}

    @abstractmethod
    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        """Return a sample as rich markup: decoded, with the targets marked. tokenizer: None if the task is not
        tokenized."""
