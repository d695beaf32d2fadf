"""Mistakes in the data that a plan reports, from the first rows of each source."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support

from launcher.config import load
from launcher.config.errors import UserError
from launcher.prepare import run_setup, source_shards

CLASSES, TAGS = {"kind": "sequence_classification"}, {"kind": "token_classification"}
GOOD = [{"text": f"the node {n}", "label": "ab"[n % 2]} for n in range(4)]
OR_SKIP = " (or data.train.on_bad_row: skip, to leave such rows out)"


def problems(task, **source):
    support.write(support.mlm(task=task, data={"train": source, "validation": {"fraction": 0.5}, "max_length": 16}))
    return [str(one) for one in source_shards.preview_problems(load.recipe("recipe.yaml", ()).value)]


def jsonl(*rows):
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "jsonl", "path": "d.jsonl"}


def table(content, ending="csv", **keys):
    Path(f"d.{ending}").write_text(content)
    return {"kind": "csv", "path": f"d.{ending}", **keys}


def parquet(*rows):
    pq.write_table(pa.Table.from_pylist(list(rows)), "d.parquet")
    return {"kind": "parquet", "path": "d.parquet"}


@pytest.mark.parametrize(
    ("task", "source", "found"),
    [
        (CLASSES, lambda: jsonl(*GOOD, {"text": "x"}),
         f"d.jsonl:5: data.train.label: no column 'label' (there are: text){OR_SKIP}"),
        (CLASSES, lambda: {**jsonl(*GOOD), "label": "topic"},
         f"d.jsonl:1: data.train.label: no column 'topic' (there are: text, label){OR_SKIP}"),
        ({"kind": "regression"}, lambda: jsonl(*GOOD),
         f"d.jsonl:1: data.train.label: column 'label' is 'a': should be a number{OR_SKIP}"),
        ({**CLASSES, "labels": "multi"}, lambda: jsonl(*GOOD),
         f"d.jsonl:1: data.train.label: column 'label' is no list but str{OR_SKIP}"),
        (TAGS, lambda: jsonl({"words": ["a"], "labels": ["O", "O"]}),
         f"d.jsonl:1: data.train: 1 words and 2 labels: one for each is needed{OR_SKIP}"),
        (CLASSES, lambda: table("text,topic\na,b\n"),
         "data.train.label: d.csv: no column 'label' (there are: text, topic)"),
        (CLASSES, lambda: table("text;label\na;b\n"),
         "data.train.delimiter: d.csv: its first line has no ',' but 1 of ';' (delimiter: \";\")"),
        (CLASSES, lambda: table("text\tlabel\nx\ty\nz\t\n", "tsv", delimiter="\t"),
         f"d.tsv:3: data.train.label: column 'label' is empty{OR_SKIP}"),
        (CLASSES, lambda: parquet({"text": "a", "label": 0.5}),
         f"d.parquet row 1: data.train.label: column 'label' is 0.5: a label is a name or a whole number{OR_SKIP}"),
        (CLASSES, lambda: parquet({"body": "a", "label": 1}),
         "data.train.text: d.parquet: no column 'text' (there are: body, label)"),
        (CLASSES, lambda: {"kind": "text", "path": "corpus.txt"},
         "data.train.kind: plain text has no labels (use jsonl, csv, hub, ...)"),
    ],
)  # fmt: skip
def test_the_first_mistake_of_a_source_is_reported(workspace, task, source, found):
    assert problems(task, **source()) == [found]


@pytest.mark.parametrize(
    "source",
    [
        lambda: jsonl(*GOOD),
        lambda: parquet(*GOOD),
        lambda: table("label,text\n" + "".join(f"{row['label']},{row['text']}\n" for row in GOOD)),
        lambda: {**jsonl(*GOOD, {"text": "x"}), "on_bad_row": "skip"},
        lambda: {**jsonl(*GOOD, {"text": "x"}), "limit": 4},
        lambda: jsonl(*GOOD * 50, {"text": "x"}),  # beyond what is read
    ],
)
def test_good_rows_and_those_that_may_be_bad_are_no_mistake(workspace, source):
    assert problems(CLASSES, **source()) == []


def test_nothing_of_the_hub_is_loaded_for_a_plan(workspace, monkeypatch):
    monkeypatch.setattr("launcher.data.hub.Source.parts", None)
    assert problems(CLASSES, kind="hub", name="nobody/nothing") == []


def test_a_plan_reports_them_beside_other_mistakes(workspace):
    jsonl({"text": "a", "label": 0.5})
    source = {"kind": "jsonl", "path": "d.jsonl"}
    data = {"train": source, "validation": {**source, "label": "gone"}, "max_length": 16}
    support.write(support.mlm(task=CLASSES, data=data))
    with pytest.raises(UserError) as error:
        run_setup.dry_run(load.recipe("recipe.yaml", ["train.max_tokens=3"]), load.cluster("local").value, 1)
    told = str(error.value).splitlines()
    assert told[0].startswith("d.jsonl:1: data.train.label: column 'label' is 0.5: a label is a name")
    assert told[1].startswith("d.jsonl:1: data.validation.label: no column 'gone' (there are: text, label)")
    assert "train.max_tokens: 3 is below one sample" in told[2]
