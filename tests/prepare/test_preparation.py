"""The counts and notes of a preparation."""

import json
from pathlib import Path

import pytest
import support

from launcher.config import load
from launcher.plan.facts import TruncationCounts, cut_notes
from launcher.prepare import run_setup


@pytest.fixture(autouse=True)
def own_cache(workspace, monkeypatch):
    monkeypatch.setenv("LAUNCHER_CACHE", str(workspace / "cache"))


def test_texts_with_words_that_are_special_tokens_are_noted(workspace):
    rows = [{"text": "the node waits", "label": "a"}, {"text": "a step [SEP] of the node", "label": "b"}] * 4
    lines = [json.dumps({**row, "text": f"{row['text']} {n}"}) for n, row in enumerate(rows)]
    Path("rows.jsonl").write_text("\n".join(lines) + "\n")
    source = {"kind": "jsonl", "path": "rows.jsonl"}
    task = {"kind": "sequence_classification"}
    support.write(support.mlm(task=task, data={"train": source, "validation": source, "max_length": 16}))
    _, facts = run_setup.prepare(load.recipe("recipe.yaml"), processes=1)
    (note,) = facts.notes
    what = "8 texts with words that the tokenizer reads as special tokens, the first: 'a step [SEP] of the node 1'"
    assert note.startswith(what)


@pytest.mark.parametrize(
    ("task", "rows", "cut"),
    [
        ({"kind": "sequence_classification"}, {"text": "the " * 9, "label": "a"}, {"rows": 1}),
        ({"kind": "sequence_classification"}, {"text": "the", "text_pair": "a " * 9, "label": "a"}, {"rows": 1}),
        ({"kind": "regression"}, {"text": "the " * 9, "label": 1.5}, {"rows": 1}),
        ({"kind": "mlm", "samples": "documents"}, {"text": "the " * 9}, {"rows": 1}),
        ({"kind": "mlm", "samples": "documents", "overflow": "split"}, {"text": "the " * 9}, {}),
        ({"kind": "mlm"}, {"text": "the " * 9}, {}),
        ({"kind": "seq2seq", "max_target_length": 4}, {"text": "the " * 9, "target": "the " * 9},
         {"rows": 1, "targets": 1}),
        ({"kind": "token_classification"}, {"words": ["the"] * 9, "labels": ["O"] * 8 + ["B-X"]},
         {"rows": 1, "words": 3, "labels": 1}),
        ({"kind": "question_answering"},
         {"question": "the " * 9, "context": "the node", "answers": {"text": ["the"], "answer_start": [0]}},
         {"questions": 1}),
    ],
)  # fmt: skip
def test_what_max_length_cuts_is_counted(workspace, task, rows, cut):
    short = {
        "text": "the",
        "text_pair": "a",
        "target": "a",
        "label": "b",
        "words": ["the"],
        "labels": ["O"],
        "question": "a",
    }
    short = {name: short.get(name, value) for name, value in rows.items()}
    short |= {"label": 2.5} if task["kind"] == "regression" else {}
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (rows, short, short)))
    source = {"kind": "jsonl", "path": "rows.jsonl", **({"text_pair": "text_pair"} if "text_pair" in rows else {})}
    support.write(support.mlm(task=task, data={"train": source, "validation": source, "max_length": 8}))
    _, facts = run_setup.prepare(load.recipe("recipe.yaml"), processes=1)
    assert facts.cut == dict.fromkeys(("train", "validation"), TruncationCounts(tokens=8, of=3, **cut))
    told = cut_notes(facts)
    assert len(told) == (2 if cut else 0)
    assert all(
        note.startswith(side) for note, side in zip(told, ("train: 1 of 3 ", "validation: 1 of 3 "), strict=bool(told))
    )
