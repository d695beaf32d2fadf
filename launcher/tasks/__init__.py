"""What a model learns. A kind is one module here with a `Config` (a subclass of `launcher.config.types.TaskConfig`) and
a class `Task` that extends the one below; the file is the registration. Import torch inside functions: a plan reads
every Config on a login node. A task never divides: `loss` returns a sum and `weight` says what it will be divided by,
so that ranks and micro-batches cannot show.

Samples are dicts of numpy arrays without padding (`input_ids`, `labels`, ...): what the model will be given, augmented.
They are what the digest witnesses, so they must be a pure function of the row and its (seed, epoch, id).

A task that holds another, as `task` in its configuration, leaves to that one what samples are: all that is done at
preparation, but `check`, is asked of the other (see Recipe.inner_task).

A metric is computed once, from what the model made of every validation sample, gathered from all ranks in the order of
the samples: so it is the same to the last digit however many ranks there are.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from launcher.contract.random import Draw
    from launcher.plan.facts import Facts

Row = dict[str, Any]
Sample = dict[str, NDArray[Any]]
Batch = dict[str, Any]
Outputs = dict[str, list[Any]]
"""What a model made of samples: by name one value or array for each of them, in their order."""
Directions = dict[str, Literal["min", "max"]]

IGNORE = -100
"""A label that carries no weight (torch's own convention)."""


class Features(NamedTuple):
    """Finished samples. `empty`: rows that gave none, since they hold no token. `cut`: of each row of the batch what
    its truncation left out: `rows`, `targets` and `questions` (0 or 1) that are cut, `words` and `labels` (other than
    O) beyond the cut; arrays of shape (rows,)."""

    table: "pa.Table"
    empty: int = 0
    cut: Mapping[str, NDArray[np.integer]] = {}


class Task(ABC):
    """One task, for one rank. Static members are asked at preparation, with the Config; a task that is built knows the
    facts of the data."""

    columns: tuple[str, ...]
    """The canonical columns that rows need (see launcher.data)."""
    targets: tuple[str, ...] = ()
    """Those of them that a prediction does without: rows may come without them."""
    surveyed: tuple[str, ...] = ()
    """Those of which every value must be known before rows become features, such as labels; of an image its shape
    (`28x28x1`), of a list of numbers how many they are."""
    tokenized: bool = True
    """Whether samples are made of tokens. Else there is no tokenizer, `encoder` is None, and a sample's length is 1."""
    auto_class: str = ""
    """The transformers auto class of the model, such as AutoModelForMaskedLM; empty: none takes what the task gives."""
    relative: bool = False
    """Whether metrics compare a model with what it was as the run began: not one that is read from a file."""
    distillable: bool = False
    """Whether one of several classes is learnt for each number of `batch["labels"]`: it has `logits` and `loss_of`."""
    ranks_answers: bool = False
    """Whether it has `ranked`."""

    uses_tokenizer: bool = False
    """Whether it makes texts of tokens as it trains, by its attribute `tokenizer`."""
    tokenizer: Any = None

    # --- at preparation, once
    @classmethod
    def required_columns(cls, config: Any) -> tuple[str, ...]:
        """The columns, where they depend on the configuration."""
        return cls.columns

    @staticmethod
    @abstractmethod
    def prepared(config: Any) -> dict[str, Any]:
        """What prepared samples depend on: tasks that say the same share them. JSON, with a name for the features."""

    @staticmethod
    def survey(config: Any, values: Mapping[str, set[str]]) -> dict[str, Any]:
        """What must be known of the training rows before they become features: `labels` in their order and `shape`,
        from the values of each surveyed column. JSON. Raises UserError."""
        return {}

    @staticmethod
    def shape(config: Any) -> tuple[int, ...]:
        """Of a task without tokens: the shape of its samples, as far as the configuration tells it before `survey`, to
        plan with."""
        return ()

    @staticmethod
    @abstractmethod
    def features(
        config: Any, rows: "Iterable[pa.RecordBatch]", survey: dict[str, Any], encoder: Any, length: int, key: str
    ) -> Iterator[Features]:
        """Rows of the required columns, as tables with an int32 column `length`, of tokens a list column `input_ids`,
        and what else `samples` needs; none longer than `length` tokens. Called once for each part of a source, in
        parallel processes. `encoder`: a launcher.prepare.encode.Encoder, or None. Of rows without the targets the
        labels carry no weight. Raises UserError."""

    @staticmethod
    def counts(config: Any, training: "Iterable[pa.Table]", classes: int) -> list[int]:
        """How many training samples each label has; empty: it has no labels."""
        return []

    @staticmethod
    @abstractmethod
    def baseline(config: Any, validation: "Iterable[pa.Table]", special_ids: Sequence[int]) -> dict[str, float]:
        """What a model that learnt nothing but frequencies would reach on the validation samples."""

    @staticmethod
    def describe_labels(config: Any, facts: "Facts") -> str:
        """The labels of the training data in one line, for a plan."""
        return ""

    @staticmethod
    def tokens(config: Any) -> Sequence[str]:
        """Tokens that the configuration names; their ids are found in `facts.token_ids`."""
        return ()

    @staticmethod  # noqa: B027 most have nothing to check
    def check(config: Any, facts: "Facts", folder: Path) -> None:
        """Raises UserError where the configuration does not go with the prepared `folder` (tokenizer/ is in it)."""

    # --- at training, on each rank
    @abstractmethod
    def __init__(self, config: Any, facts: "Facts"): ...

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Options of the model's configuration that the task decides, such as num_labels."""

    def generation(self) -> dict[str, Any]:
        """Keys of transformers' generation configuration that the task decides, such as max_new_tokens."""
        return {}

    @abstractmethod
    def outputs(self, length: int) -> float:
        """How many values the model's head makes for a sample of so many tokens, to estimate memory."""

    @abstractmethod
    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: "Draw") -> list[Sample]:
        """The finished samples of these rows, one each."""

    @abstractmethod
    def weight(self, sample: Sample) -> float:
        """What this sample adds to the weight that the global batch's loss is divided by."""

    @abstractmethod
    def zero_weight(self, sample: Sample) -> Sample:
        """The same sample with weight zero."""

    def join(self, samples: Sequence[Sample]) -> Sample:
        """Samples in one row, for tasks whose configuration has `samples: packed`."""
        raise NotImplementedError

    @classmethod
    def refusal(cls, model: "torch.nn.Module", documents: "Sequence[torch.Tensor]", pad_token_id: int) -> str | None:
        """Why a model in eval mode cannot be given such rows; None: it can. For the same tasks; a plan asks it of a
        tiny copy. `documents`: token ids, each of shape (length,)."""
        raise NotImplementedError

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> Batch:
        """A padded micro-batch of numpy arrays, shape (samples, longest)."""

    @abstractmethod
    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        """Adapt the bare model before it is wrapped; `batch` is one to try things on. Returns notes for the user."""

    def frozen_models(self) -> "list[torch.nn.Module]":
        """The models that an attached task asks besides the one that trains, on the same batches."""
        return []

    @abstractmethod
    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        """The sum of the losses of a micro-batch, a scalar tensor, and its weight."""

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """The model's outputs that the loss is computed from; of a distillable task shape (n, classes), for the n
        numbers of `batch["labels"]` (IGNORE where there is none)."""
        raise NotImplementedError

    def loss_of(self, logits: "torch.Tensor", batch: Batch) -> "tuple[torch.Tensor, float]":
        """The loss of a micro-batch, as `loss` has it, from such logits."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        """What the model makes of each sample of a micro-batch: by name tensors of shape (samples, ...), or lists with
        an array for each. `loss` and `weight` (its sum and its weight) among them."""

    @abstractmethod
    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """The metrics of all samples by name, `loss` among them. Called on every rank with the same."""

    @abstractmethod
    def directions(self) -> Directions:
        """Of every metric by name whether less or more of it is better; those of single classes may be left out."""

    def generate(self, model: Any, batch: Batch) -> list[NDArray[np.int64]]:
        """The token ids that the model makes of each sample, with the bare model of transformers in eval mode; called
        where the configuration `generates`, and then given to `scores` and `predictions` as `generated` beside what
        `predict` returned."""
        raise NotImplementedError

    def scores(self, outputs: Outputs, tokenizer: Any) -> dict[str, float]:
        """Further metrics, of what was generated."""
        return {}

    def joined(self, predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The prediction for a row from those for its samples: one or more."""
        return predictions[0] if len(predictions) == 1 else {"parts": list(predictions)}

    def report(self, outputs: Outputs) -> dict[str, Any]:
        """What a person looks at besides the metrics, as JSON: `classes` (label -> precision, recall, f1, support),
        `confusion` (rows are the truth) with its `labels`, `examples` (list of maps)."""
        return {}

    def ranked(self, outputs: Outputs, most: int) -> list[list[dict[str, Any]]]:
        """Of each sample the `most` probable answers, the best first, with their probabilities, as JSON."""
        raise NotImplementedError

    @abstractmethod
    def predictions(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        """Predictions for a person: a JSON object for each sample. `tokenizer`: None where there is none."""

    @abstractmethod
    def show(self, sample: Sample, tokenizer: Any) -> str:
        """A sample as rich markup for a person: decoded, with what is to be learnt marked."""
