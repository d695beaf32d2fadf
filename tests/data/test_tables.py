"""Class numbers in datasets of the hub, single and in lists."""

import datasets
import pytest

from launcher.config.requested_columns import Column
from launcher.data import BadRow, _tables, hub

FEATURES = {
    "tokens": datasets.List(datasets.Value("string")),
    "tags": datasets.List(datasets.ClassLabel(names=["O", "B-X"])),
    "label": datasets.ClassLabel(names=["a", "b"]),
}
ROWS = {"tokens": [["the", "node"], ["a"]], "tags": [[0, 1], [-1]], "label": [1, -1]}


def read(columns, **names):
    data = datasets.Dataset.from_dict(ROWS, features=datasets.Features(FEATURES))
    config = hub.Config(name="it", **names)
    return list(_tables.dataset_rows(data, "it", config, columns, "data.train", _tables.dataset_parts(data)[0]))


def test_words_come_with_the_names_of_their_labels():
    first, second = read(("words", "labels"), words="tokens", labels="tags")
    assert first == {"words": ["the", "node"], "labels": ["O", "B-X"]}
    assert second == BadRow("it row 1", "data.train.labels: has no label (-1): choose another split")


@pytest.mark.parametrize(
    ("column", "name", "expected"),
    [
        ("label", "label", "b"),
        (Column("label", "names"), "tags", ["O", "B-X"]),
        (Column("label", "number"), "label", 1),
    ],
)
def test_a_label_is_what_the_task_wants(column, name, expected):
    assert read((column,), label=name)[0] == {"label": expected}
