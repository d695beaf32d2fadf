"""Image classification: one label for an image."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from launcher.config.errors import Problem, UserError
from launcher.contract.random import Draw, Stream
from launcher.tasks import Features, Row, Sample, _array_samples, _image_augmentation, _images, _single_label

if TYPE_CHECKING:
    from launcher.plan.facts import Facts
    from launcher.prepare.encode import Encoder


def _size(value: Any) -> Any:
    sides = value if isinstance(value, list | tuple) else [value, value]
    if value is not None and not (len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)):
        raise PydanticCustomError("size", "should be a number of pixels, or [height, width]")
    return value if value is None else tuple(sides)


class Config(_single_label.SingleLabelConfig):
    """One label for each image."""

    kind: Literal["image_classification"] = "image_classification"
    size: Annotated[tuple[int, int] | None, BeforeValidator(_size)] = None
    """Size that images are scaled to: pixels, or [height, width]. Default: all images have one size."""
    channels: Literal[1, 3] | None = None
    """1 (grey) or 3 (colour). Default: as in the images."""
    mean: list[float] = Field([0.0], min_length=1)
    """Mean of each channel, or one for all, of values in 0..1."""
    std: list[Annotated[float, Field(gt=0)]] = Field([1.0], min_length=1)
    """Standard deviation of each channel, or one for all, of values in 0..1."""
    augment: _image_augmentation.Augment = _image_augmentation.Augment()
    """Random changes of training images."""

    @property
    def normalization(self) -> tuple[list[float], list[float]]:
        return self.mean, self.std


class Task(_array_samples.ArraySamples, _single_label.SingleLabel):
    columns = ("image", "label")
    surveyed = ("image", "label")
    auto_class = "AutoModelForImageClassification"
    given = "pixel_values"

    @staticmethod
    def prepared(config: Config) -> dict[str, Any]:
        return {"features": "image_classification", "size": config.size and [*config.size], "channels": config.channels}

    @staticmethod
    def shape(config: Config) -> tuple[int, ...]:
        return (config.channels or 3, *(config.size or (32, 32)))

    @staticmethod
    def survey(config: Config, values: Mapping[str, set[str]]) -> dict[str, Any]:
        labels = _single_label.survey(values["label"])
        return {"labels": labels, "shape": list(_images.shape(values["image"], config.size, config.channels))}

    @staticmethod
    def features(
        config: Config,
        rows: Iterable[pa.RecordBatch],
        survey: dict[str, Any],
        encoder: "Encoder | None",
        length: int,
        key: str,
    ) -> Iterator[Features]:
        fixed = config.size is not None, config.channels is not None
        for batch in rows:
            label, start = _single_label.numbered(batch, survey["labels"], key), 0
            for pixels in _images.pieces(batch.column("image"), tuple(survey["shape"]), fixed, key):
                yield _array_samples.features("pixels", pixels, label[start : start + len(pixels)])
                start += len(pixels)

    @staticmethod
    def check(config: Config, facts: "Facts", folder: Path) -> None:
        _single_label.SingleLabel.check(config, facts, folder)
        channels = facts.shape[0]
        wrong = [name for name in ("mean", "std") if len(getattr(config, name)) not in (1, channels)]
        if wrong:
            of = "1 channel" if channels == 1 else f"{channels} channels"
            told = f"numbers, the images have {of} (one for each, or one for all)"
            raise UserError([Problem(f"task.{name}", f"{len(getattr(config, name))} {told}") for name in wrong])

    @property
    def _scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and deviation of each channel."""
        mean, std = np.array(self.config.mean, np.float32), np.array(self.config.std, np.float32)
        return np.broadcast_to(mean, self.facts.shape[0]), np.broadcast_to(std, self.facts.shape[0])

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        channels, height, width = self.facts.shape
        images = np.array([row["pixels"] for row in rows], np.uint8).reshape(len(rows), height, width, channels)
        if draw.stream != Stream.EVALUATE:
            images = _image_augmentation.augmented(images, self.config.augment, epochs, ids, draw)
        values = _images.normalised(images, *self._scale)
        labels = [np.array([row["label"]], np.int64) for row in rows]
        return [{"pixel_values": one, "labels": label} for one, label in zip(values, labels, strict=True)]

    def show(self, sample: Sample, tokenizer: Any) -> str:
        from rich.markup import escape

        label = self.facts.labels[int(sample["labels"][0])]
        return f"{_images.drawn(sample['pixel_values'], *self._scale)}\n→ [bold reverse]{escape(label)}[/]"
