"""Image classification: one label for an image."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from launcher.config.errors import Problem, UserError
from launcher.contract.random import Draw, Stream
from launcher.tasks import (
    Batch,
    FeatureContext,
    Features,
    JsonObject,
    Row,
    Sample,
    _array_inputs,
    _image_augmentation,
    _images,
    _single_label,
    _target_kinds,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from launcher.plan.facts import Facts


def _size(value: object) -> object:
    sides = value if isinstance(value, list | tuple) else [value, value]
    if value is not None and not (len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)):
        raise PydanticCustomError("size", "should be a number of pixels, or [height, width]")
    return value if value is None else tuple(sides)


_Pixels = Annotated[int, Field(gt=0)]
_SizeWritten = _Pixels | tuple[_Pixels, _Pixels] | None


class Config(_single_label.SingleLabelConfig):
    """One label for each image."""

    kind: Literal["image_classification"] = "image_classification"
    size: Annotated[tuple[int, int] | None, BeforeValidator(_size, json_schema_input_type=_SizeWritten)] = None
    """Size to which images are scaled: pixels, or [height, width]. Default: that of the images, which must be the same
    for all."""
    channels: Literal[1, 3] | None = None
    """1 (grey) or 3 (colour). Default: as in the images."""
    mean: list[float] = Field([0.0], min_length=1)
    """Mean of each channel, or one number for all channels, of pixel values in 0..1."""
    std: list[Annotated[float, Field(gt=0)]] = Field([1.0], min_length=1)
    """Standard deviation of each channel, or one number for all channels, of pixel values in 0..1."""
    augment: _image_augmentation.Augment = _image_augmentation.Augment()
    """Augmentation of training images."""

    @property
    def normalization(self) -> tuple[list[float], list[float]]:
        return self.mean, self.std


class Task(_target_kinds.SingleTargetTask[Config]):
    columns = ("image", "label")
    survey_columns = ("image", "label")
    tokenized = False
    auto_class = "AutoModelForImageClassification"
    distillable = True
    has_top_predictions = True

    @staticmethod
    def preparation_key(config: Config) -> JsonObject:
        return {"features": "image_classification", "size": config.size and [*config.size], "channels": config.channels}

    @staticmethod
    def sample_shape(config: Config) -> tuple[int, ...]:
        return (config.channels or 3, *(config.size or (32, 32)))

    @staticmethod
    def survey(config: Config, values: Mapping[str, set[str]]) -> JsonObject:
        labels = _single_label.survey(values)
        return {"labels": labels, "shape": list(_images.shape(values["image"], config.size, config.channels))}

    @staticmethod
    def features(config: Config, rows: Iterable[pa.RecordBatch], context: FeatureContext) -> Iterator[Features]:
        resized, shape = _images.Resized(config.size is not None, config.channels is not None), context.survey["shape"]
        for batch in rows:
            label, start = _single_label.numbers(batch, context.survey["labels"], context.key), 0
            for pixels in _images.resize(batch.column("image"), tuple(shape), resized, context.key):
                yield _array_inputs.features("pixels", pixels, label[start : start + len(pixels)])
                start += len(pixels)

    @staticmethod
    def count_labels(config: Config, training: Iterable[pa.Table], classes: int) -> list[int]:
        return _single_label.count_labels((table["label"] for table in training), classes)

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        return _single_label.baseline(validation)

    @staticmethod
    def describe_labels(config: Config, facts: "Facts") -> str:
        return _single_label.describe_labels(facts)

    @staticmethod
    def check(config: Config, facts: "Facts", folder: Path) -> None:
        _single_label.check(config, facts, folder)
        channels = facts.shape[0]
        of_images = "1 channel" if channels == 1 else f"{channels} channels"
        counts = {"mean": len(config.mean), "std": len(config.std)}
        problems = [
            Problem(f"task.{name}", f"{count} numbers, the images have {of_images} (one for each, or one for all)")
            for name, count in counts.items()
            if count not in (1, channels)
        ]
        if problems:
            raise UserError(problems)

    def __init__(self, config: Config, facts: "Facts"):
        super().__init__(config, facts)
        self.target_kind = _single_label.SingleLabelTarget(config, facts)

    @property
    def _scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of each channel."""
        mean, std = np.array(self.config.mean, np.float32), np.array(self.config.std, np.float32)
        return np.broadcast_to(mean, self.facts.shape[0]), np.broadcast_to(std, self.facts.shape[0])

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        channels, height, width = self.facts.shape
        images = np.array([row["pixels"] for row in rows], np.uint8).reshape(len(rows), height, width, channels)
        if draw.stream != Stream.EVALUATE:
            images = _image_augmentation.augment(images, self.config.augment, epochs, ids, draw)
        values = _images.normalize(images, *self._scale)
        labels = [self.target_kind.target(row["label"]) for row in rows]
        return [{"pixel_values": one, "labels": label} for one, label in zip(values, labels, strict=True)]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        labels = self.target_kind.collate([sample["labels"] for sample in samples])
        return {**_array_inputs.inputs("pixel_values", [s["pixel_values"] for s in samples]), "labels": labels}

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Return logits of shape (samples, classes)."""
        return _array_inputs.logits(model, batch)

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        label = self.target_kind.markup(sample["labels"]).strip()
        return f"{_images.render(sample['pixel_values'], *self._scale)}\n{label}"
