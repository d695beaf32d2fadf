"""Tabular regression: lists of as many numbers each."""

import numpy as np
import pytest

from launcher.config.errors import UserError
from launcher.contract.random import Draw, Stream
from launcher.prepare.row_batches import batch_of
from launcher.tasks import FeatureContext
from launcher.tasks.tabular_regression import Config, Task

CONFIG = Config()


def features(lists, count=2, key="data.train"):
    batch = batch_of([{"features": numbers, "label": float(n)} for n, numbers in enumerate(lists)])
    context = FeatureContext({"shape": [count]}, 128, key, None)
    return [made.table for made in Task.features(CONFIG, [batch], context)]


def test_the_shape_of_samples_is_how_many_numbers_there_are():
    assert Task.survey(CONFIG, {"features": {"13"}}) == {"shape": [13]}


def test_lists_of_different_lengths_are_refused():
    told = r"^data\.train\.features: rows of 2 and of 13 numbers in the training data: all need as many$"
    with pytest.raises(UserError, match=told):
        Task.survey(CONFIG, {"features": {"13", "2"}})
    told = r"^data\.validation\.features: a row of 3 numbers, those of the training data have 2$"
    with pytest.raises(UserError, match=told):
        features([[1.0, 2.0], [1.0, 2.0, 3.0]], key="data.validation")


def test_no_row_is_reported():
    with pytest.raises(UserError, match=r"^data\.train: there is no row in it"):
        Task.survey(CONFIG, {"features": set()})


def test_samples_are_the_numbers_with_their_label(facts_of):
    (table,) = features([[1.5, -2.0], [0.25, 4.0]])
    rows = [{**row, "features": np.array(row["features"])} for row in table.to_pylist()]
    task = Task(CONFIG, facts_of(shape=(2,)))
    samples = task.samples(rows, [0, 0], [0, 1], Draw(0, Stream.MASK))
    assert [sample["features"].tolist() for sample in samples] == [[1.5, -2.0], [0.25, 4.0]]
    assert [sample["labels"].tolist() for sample in samples] == [[0.0], [1.0]]
    assert task.render(samples[1], None) == "0.25 4 → [bold reverse]1[/]"


def test_rows_without_a_label_weigh_nothing(facts_of):
    batch = batch_of([{"features": [1.0, 2.0]}])
    (made,) = Task.features(CONFIG, [batch], FeatureContext({"shape": [2]}, 128, "data.train", None))
    rows = [{**row, "features": np.array(row["features"])} for row in made.table.to_pylist()]
    task = Task(CONFIG, facts_of(shape=(2,)))
    assert task.weight(task.samples(rows, [0], [0], Draw(0, Stream.MASK))[0]) == 0
