"""Tasks: what a model learns.

A kind is one module of this package with a `Config` (a subclass of `launcher.config.types.TaskConfig`) and a class
`Task` that extends `Task[Config]` below; the file is the registration. A user's own is a module elsewhere, named by its
dotted path. Import torch inside functions: a plan reads every Config on a login node.

The contract of a task:

- Samples are dicts of numpy arrays without padding (`input_ids`, `labels`, ...), augmentation included. They are hashed
  into the digest, so they must be a pure function of the row and its (seed, epoch, id).
- A task never divides. `loss` returns a sum and `weight` its share of the divisor. Neither ranks nor micro-batches can
  then change the result.
- Metrics are computed once, from the outputs for all validation samples, gathered from all ranks in the order of the
  samples. They are the same to the last digit on any number of ranks.

A task that wraps another one (`task` in its Config, such as distillation) leaves the samples to the inner task: of the
methods for preparation only its `check` is called (see Recipe.inner_task).
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
"""One row of prepared features: numpy arrays of list columns, scalars of the others."""
Array = NDArray[Any]
Sample = dict[str, Array]
Batch = dict[str, Any]
"""A micro-batch: arrays, or maps of arrays. `inputs` are the keyword arguments of the model's forward. `collate`
returns numpy arrays; the other methods get torch tensors."""
BatchOutputs = dict[str, Any]
"""What `Task.predict` returns for a micro-batch: by name a tensor of shape (samples, ...), or a list with an array for
each sample. `loss`, summed over the sample, and `weight` are among them."""
Outputs = dict[str, list[Any]]
"""What `Task.predict` returned for many samples: by name one value or array for each, in the order of the samples."""
Directions = dict[str, Literal["min", "max"]]
"""Whether less or more of a metric is better, by the metric's name."""

IGNORE = -100
"""A label without weight (torch's own convention)."""

ConfigT = TypeVar("ConfigT", bound=TaskConfig, default=TaskConfig)


class Features(NamedTuple):
    """Prepared samples.

    table: one row for each sample.
    empty: number of rows without a token, which have no sample.
    cut: what truncation removed from each row of the batch, as arrays of shape (rows,). `rows`, `targets` and
        `questions`: 1 where they were cut, else 0. `words` and `labels` (other than O): how many were removed.
    """

    table: "pa.Table"
    empty: int = 0
    cut: Mapping[str, NDArray[np.integer]] = {}


class Task(ABC, Generic[ConfigT]):
    """One task on one rank. The static methods are called during preparation; an instance knows the facts of the
    prepared data."""

    columns: tuple[str, ...]
    """Columns that a row needs (see launcher.data)."""
    target_columns: tuple[str, ...] = ()
    """Columns that only training and evaluation need: rows to predict may lack them."""
    survey_columns: tuple[str, ...] = ()
    """Columns of which `survey` gets all distinct values, such as labels. The value of an image is its shape
    (`28x28x1`), that of a list of numbers its length."""
    tokenized: bool = True
    """Whether samples consist of tokens. If not, there is no tokenizer, and the length of a sample is 1."""
    auto_class: str = ""
    """The transformers auto class of the model, such as AutoModelForMaskedLM; empty: any that takes the inputs."""
    needs_initial_model: bool = False
    """Whether metrics compare the model with the one at the start of the run. They cannot be computed for an export."""
    distillable: bool = False
    """Whether `logits` and `loss_from_logits` work, with one of several classes for each entry of `batch["labels"]`."""
    has_top_predictions: bool = False
    """Whether `top_predictions` works."""
    uses_tokenizer: bool = False
    """Whether training decodes tokens, by the attribute `tokenizer`."""
    tokenizer: "PreTrainedTokenizerBase | None" = None

    # --- preparation

    @classmethod
    def required_columns(cls, config: ConfigT) -> tuple[str, ...]:
        """Return `columns`, or other ones where they depend on the configuration."""
        return cls.columns

    @staticmethod
    @abstractmethod
    def preparation_key(config: ConfigT) -> JsonObject:
        """Return what prepared samples depend on, with `features` as the name of their format. Tasks with equal keys
        share prepared data."""

    @staticmethod
    def survey(config: ConfigT, values: Mapping[str, set[str]]) -> JsonObject:
        """Return `labels` in their order and the `shape` of samples, as far as they exist, from the distinct training
        values of `survey_columns`. Raises UserError."""
        return {}

    @staticmethod
    def sample_shape(config: ConfigT) -> tuple[int, ...]:
        """Return the expected shape of a sample of a task without a tokenizer, for a plan that is made before the data
        is read."""
        return ()

    @staticmethod
    @abstractmethod
    def features(config: ConfigT, rows: "Iterable[pa.RecordBatch]", context: FeatureContext) -> Iterator[Features]:
        """Convert rows of the required columns into tables of samples.

        A table has an int32 column `length`, for tokens a list column `input_ids`, and what else `samples` needs. No
        sample exceeds `context.max_length` tokens. Rows without the target columns get labels without weight. Called
        once for each part of a source, in parallel processes. Raises UserError.
        """

    @staticmethod
    def count_labels(config: ConfigT, training: "Iterable[pa.Table]", classes: int) -> list[int]:
        """Return the number of training samples of each label; empty where there are no labels."""
        return []

    @staticmethod
    @abstractmethod
    def baseline(config: ConfigT, validation: "Iterable[pa.Table]", special_ids: Sequence[int]) -> dict[str, float]:
        """Return the score, by name, of a model that knows only frequencies, on the validation samples."""

    @staticmethod
    def describe_labels(config: ConfigT, facts: "Facts") -> str:
        """Return one line about the labels of the training data, for a plan."""
        return ""

    @staticmethod
    def named_tokens(config: ConfigT) -> Sequence[str]:
        """Return the tokens that the configuration names. Preparation stores their ids in `facts.token_ids`."""
        return ()

    @staticmethod
    def check(config: ConfigT, facts: "Facts", folder: Path) -> None:
        """Check the configuration against the prepared `folder` (its tokenizer is in tokenizer/). Raises UserError."""

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
        """Return how many values the model's head outputs for a sample of `length` tokens, to estimate memory."""

    @abstractmethod
    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: "Draw") -> list[Sample]:
        """Build one sample from each row."""

    @abstractmethod
    def weight(self, sample: Sample) -> float:
        """Return what the sample adds to the divisor of the global batch's loss."""

    @abstractmethod
    def zero_weight(self, sample: Sample) -> Sample:
        """Return a copy of the sample without weight."""

    def pack(self, samples: Sequence[Sample]) -> Sample:
        """Concatenate samples into one row, for a configuration with `samples: packed`."""
        raise NotImplementedError

    @classmethod
    def packing_error(
        cls, model: "torch.nn.Module", documents: "Sequence[torch.Tensor]", pad_token_id: int
    ) -> str | None:
        """Return why a model in eval mode cannot take packed rows; None: it can. Only for tasks with `pack`; a plan
        calls it with a tiny copy of the model. documents: token ids, each of shape (length,)."""
        raise NotImplementedError

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Pad samples into a micro-batch of numpy arrays of shape (samples, longest)."""

    def prepare_model(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        """Adapt the unwrapped model to the task, in place, and return notes for the user. `batch` is a micro-batch for
        a trial forward. Raises UserError for a model that does not suit the task."""
        return []

    def frozen_models(self) -> "list[torch.nn.Module]":
        """Return the models besides the trained one that run on the same batches, once `prepare_model` was called."""
        return []

    @abstractmethod
    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        """Return the summed loss of a micro-batch, a scalar tensor, and its weight."""

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Return the model's outputs that the loss is computed from. For a distillable task: shape (n, classes), for
        the n entries of `batch["labels"]` (IGNORE where there is none)."""
        raise NotImplementedError

    def loss_from_logits(self, logits: "torch.Tensor", batch: Batch) -> "tuple[torch.Tensor, float]":
        """Return the same as `loss`, from the result of `logits`."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, model: "torch.nn.Module", batch: Batch) -> BatchOutputs:
        """Return outputs for each sample of a micro-batch."""

    @abstractmethod
    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """Return the metrics of all samples by name, `loss` among them. Every rank calls it with the same outputs."""

    @abstractmethod
    def directions(self) -> Directions:
        """Return the direction of every metric; metrics of single classes (`f1/cat`) may be left out."""

    def generate(self, model: "PreTrainedModel", batch: Batch) -> list[NDArray[np.int64]]:
        """Generate token ids for each sample, with the unwrapped model in eval mode. Called where the configuration
        `generates`; the result is the output `generated` beside those of `predict`."""
        raise NotImplementedError

    def generation_metrics(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> dict[str, float]:
        """Return further metrics, of the generated texts."""
        return {}

    @abstractmethod
    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        """Return a prediction for each sample. `tokenizer`: None where the task is not tokenized."""

    def merge_predictions(self, predictions: Sequence[JsonObject]) -> JsonObject:
        """Return the prediction for a row from those of its samples, one or more."""
        return predictions[0] if len(predictions) == 1 else {"parts": list(predictions)}

    def top_predictions(self, outputs: Outputs, count: int) -> list[list[JsonObject]]:
        """Return the `count` most probable answers of each sample with their probabilities, the best first."""
        raise NotImplementedError

    def report(self, outputs: Outputs) -> JsonObject:
        """Return details beside the metrics: `classes` (label -> precision, recall, f1, support), `confusion` (a row
        for each true label) with its `labels`, `examples` (list of maps)."""
        return {}

    @abstractmethod
    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        """Return a sample as rich markup for a person: decoded, with the targets marked. `tokenizer`: None where the
        task is not tokenized."""
