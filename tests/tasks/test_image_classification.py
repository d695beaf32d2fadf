"""Image classification: images of one shape, what a model is given of them, and what is told."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from rich.text import Text
from support import image_files

from launcher.config.errors import UserError
from launcher.contract.random import Draw, Stream
from launcher.prepare.row_batches import batch_of
from launcher.tasks import FeatureContext
from launcher.tasks.image_classification import Config, Task
from launcher.train.data_loader import tensors

TRAIN, EVALUATE = Draw(1, Stream.MASK), Draw(1, Stream.EVALUATE)


def batch(images):
    return batch_of([{"image": image, "label": n % 2} for n, image in enumerate(images)])


def surveyed(config, *shapes):
    return Task.survey(config, {"image": set(shapes), "label": {"0", "1"}})


def prepared(config, images, shape, key="data.train"):
    """Rows as they are stored, of images brought to this shape."""
    survey = {"labels": ["0", "1"], "shape": list(shape)}
    context = FeatureContext(survey, 128, key, None)
    table = pa.concat_tables([made.table for made in Task.features(config, [batch(images)], context)])
    return [{**row, "pixels": np.array(row["pixels"], np.uint8)} for row in table.to_pylist()]


@pytest.fixture
def task_of(facts_of):
    return lambda config, shape: Task(config, facts_of(labels=["0", "1"], shape=shape))


def samples(task, images, draw=TRAIN, epoch=0):
    rows = prepared(task.config, images, task.facts.shape)
    return task.samples(rows, [epoch] * len(rows), list(range(len(rows))), draw)


def test_the_shape_of_samples_is_the_common_or_the_configured_one():
    assert surveyed(Config(), "28x30x1")["shape"] == [1, 28, 30]
    assert surveyed(Config(size=[8, 9]), "28x30x1", "5x5x1")["shape"] == [1, 8, 9]
    assert surveyed(Config(size=8, channels=3), "28x30x1", "5x5x3")["shape"] == [3, 8, 8]
    assert surveyed(Config(channels=1), "5x5x1", "5x5x3")["shape"] == [1, 5, 5]


def test_images_of_different_shapes_are_refused_with_a_hint():
    with pytest.raises(UserError) as told:
        surveyed(Config(), "28x28x1", "32x30x1", "9x9x3")
    assert str(told.value).splitlines() == [
        "task.size: the training data has images of 3 sizes, such as 9x9 and 28x28 (height x width): "
        "give the size that all of them are brought to",
        "task.channels: the training data has images of 1 and of 3 channels: give 1 (grey) or 3 (colour)",
    ]


def test_an_image_of_another_shape_in_the_validation_data_is_refused():
    images = [image_files.pixels(n, (4, 5)) for n in range(3)] + [image_files.pixels(0, (6, 5), 3)]
    with pytest.raises(UserError) as told:
        prepared(Config(), images, (1, 4, 5), "data.validation")
    assert str(told.value).splitlines() == [
        "data.validation.image: there is one of 6x5 pixels, those of the training data have 4x5 "
        "(task.size and task.channels bring all to one)",
        "data.validation.image: there is one of 3 channels, those of the training data have 1 "
        "(task.size and task.channels bring all to one)",
    ]


def test_images_are_stored_as_they_are_or_as_pillow_resizes_and_converts_them():
    images = [image_files.pixels(n, (6, 4), 3) for n in range(3)]
    for row, image in zip(prepared(Config(), images, (3, 6, 4)), images, strict=True):
        assert np.array_equal(row["pixels"].reshape(6, 4, 3), image)
        assert row["length"] == 1
    for row, image in zip(prepared(Config(size=5, channels=1), images, (1, 5, 5)), images, strict=True):
        expected = Image.fromarray(image).convert("L").resize((5, 5), Image.Resampling.BILINEAR)
        assert np.array_equal(row["pixels"].reshape(5, 5), np.asarray(expected))


def test_small_images_that_become_large_are_resized_in_chunks(monkeypatch):
    from launcher.tasks import _images

    config, images = Config(size=9), [image_files.pixels(n, (2, 2)) for n in range(10)]
    whole = prepared(config, images, (1, 9, 9))
    monkeypatch.setattr(_images, "_CHUNK_BYTES", 250)
    rows = prepared(config, images, (1, 9, 9))
    assert [row["pixels"].tolist() for row in rows] == [row["pixels"].tolist() for row in whole]
    assert [row["label"] for row in rows] == [n % 2 for n in range(10)]


def test_only_size_and_channels_prepare_again():
    said = Task.preparation_key(Config())
    assert Task.preparation_key(Config(mean=[0.5], std=[0.2], augment={"crop": 4, "flip": True})) == said
    assert Task.preparation_key(Config(size=8)) != said != Task.preparation_key(Config(channels=3))
    assert Task.preparation_key(Config(size=8)) == Task.preparation_key(Config(size=[8, 8]))


def test_pixels_are_from_0_to_1_or_normalized_by_channel(task_of):
    image = np.array([[[0, 255, 51]]], dtype=np.uint8)
    (sample,) = samples(task_of(Config(), (3, 1, 1)), [image])
    assert sample["pixel_values"].dtype == np.float32
    assert sample["pixel_values"].tolist() == [[[0.0]], [[1.0]], [[np.float32(0.2)]]]
    (sample,) = samples(task_of(Config(mean=[0.5, 0.4, 0.3], std=[0.25]), (3, 1, 1)), [image])
    assert sample["pixel_values"].ravel().tolist() == pytest.approx([-2.0, 2.4, -0.4], abs=1e-6)


def test_training_images_are_augmented_and_those_of_an_evaluation_are_not(task_of):
    images = [image_files.pixels(n, (6, 6)) for n in range(20)]
    plain, task = task_of(Config(), (1, 6, 6)), task_of(Config(augment={"crop": 2, "flip": True}), (1, 6, 6))
    before = [sample["pixel_values"] for sample in samples(plain, images)]
    assert all(
        np.array_equal(s["pixel_values"], b) for s, b in zip(samples(task, images, EVALUATE), before, strict=True)
    )
    changed = [not np.array_equal(s["pixel_values"], b) for s, b in zip(samples(task, images), before, strict=True)]
    assert sum(changed) > 15
    one, other = (samples(task, images, epoch=epoch) for epoch in (0, 1))
    assert any(not np.array_equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(one, other, strict=True))


def test_a_mean_or_deviation_for_each_channel_or_one_for_all(facts_of, tmp_path):
    for shape, told in (((1, 4, 4), "1 channel"), ((3, 4, 4), "3 channels")):
        known = facts_of(labels=["0", "1"], shape=shape)
        Task.check(Config(mean=[0.5], std=[0.1] * shape[0]), known, tmp_path)
        with pytest.raises(UserError) as error:
            Task.check(Config(mean=[0.5, 0.5], std=[0.5] * 4), known, tmp_path)
        assert str(error.value).splitlines() == [
            f"task.{name}: {count} numbers, the images have {told} (one for each, or one for all)"
            for name, count in (("mean", 2), ("std", 4))
        ]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"size": 0}, r"should be a number of pixels, or \[height, width\]"),
        ({"size": [3]}, "size"),
        ({"channels": 2}, "channels"),
        ({"std": [0]}, "std"),
    ],
)
def test_an_invalid_configuration_is_refused(keys, told):
    with pytest.raises(ValueError, match=told):
        Config(**keys)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_have_the_type_of_the_model(task_of, dtype):
    task = task_of(Config(), (1, 4, 4))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).to(dtype)
    model.forward = lambda pixel_values: torch.nn.Sequential.forward(model, pixel_values)
    given = tensors(task.collate(samples(task, [image_files.pixels(n, (4, 4)) for n in range(3)])))
    loss, weight = task.loss(model, given)
    assert (loss.dtype, weight) == (dtype, 3.0)


def test_an_image_is_rendered_with_its_label_and_a_large_one_smaller(task_of):
    image = np.zeros((4, 6, 1), np.uint8)
    image[1, 2] = 255
    task = task_of(Config(mean=[0.3], std=[0.2]), (1, 4, 6))
    shown = Text.from_markup(task.render(samples(task, [image])[0], None))
    assert shown.plain.splitlines() == [" " * 12, " " * 4 + "██" + " " * 6, " " * 12, " " * 12, "→ 0"]
    task = task_of(Config(), (3, 100, 60))
    lines = Text.from_markup(
        task.render(samples(task, [image_files.pixels(1, (100, 60), 3)])[0], None)
    ).plain.splitlines()
    assert len(lines) == 26 and {len(line) for line in lines[:-1]} == {30}
