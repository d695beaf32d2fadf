"""`launcher predict`: one line per row in order, with the predictions of an evaluation."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import support
from rich.console import Console

from launcher.config import trust
from launcher.config.errors import UserError
from launcher.tools.export.compression import CompressionOptions
from launcher.tools.export.export import export
from launcher.tools.prediction import predict as tool

HELD = "{kind: jsonl, path: held.jsonl, text: body}"
pytestmark = pytest.mark.usefixtures("in_sorter")


def predicted(data, to, run="runs/sorter", which="latest", **options):
    tool.predict(run, which, str(data), to, Console(quiet=True), **options)
    return [json.loads(line) for line in to.read_text(encoding="utf-8").splitlines()]


def held():
    return [json.loads(line) for line in Path("held.jsonl").read_text().splitlines()]


def test_predictions_of_the_validation_file_reproduce_its_accuracy_exactly(tmp_path):
    lines = predicted(HELD, tmp_path / "out.jsonl")
    assert [line["text"] for line in lines] == [row["body"] for row in held()]
    right = sum(line["label"] == row["label"] for line, row in zip(lines, held(), strict=True))
    accuracy = support.evaluations("runs/sorter")[40]["eval/accuracy"]
    assert right / len(lines) == accuracy
    assert 0.5 < accuracy < 1, "else this would not tell much"
    assert all(0 < line["probability"] <= 1 for line in lines)


def test_every_kind_of_file_gives_the_same_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "_ROWS", 16)
    texts = [row["body"] for row in held()]
    rows = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "a.csv").write_text("text\n" + "\n".join(texts) + "\n")
    (tmp_path / "a.tsv").write_text("id\ttext\n" + "\n".join(f"1\t{text}" for text in texts) + "\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    pa.parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    whole = predicted(HELD, tmp_path / "whole.jsonl")
    for name in ("a.txt", "a.csv", "a.tsv", "a.jsonl.gz", "a.parquet"):
        lines = predicted(tmp_path / name, tmp_path / f"{name}.jsonl")
        assert [(line["text"], line["label"]) for line in lines] == [(line["text"], line["label"]) for line in whole]
        near = [line["probability"] for line in whole]
        assert [line["probability"] for line in lines] == pytest.approx(near, abs=1e-6)


def test_the_checkpoint_is_the_one_that_is_named(tmp_path):
    assert predicted(HELD, tmp_path / "20", which=20) != predicted(HELD, tmp_path / "40", which=40)
    assert predicted(HELD, tmp_path / "latest") == predicted(HELD, tmp_path / "again", which=40)


def test_a_row_that_cannot_be_used_keeps_its_line_where_it_is_to_be_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "the first"}\n{"text": 5}\n{"text": "the last"}\n')
    first, bad, last = predicted(f"{{kind: jsonl, path: {tmp_path / 'a.jsonl'}, on_bad_row: skip}}", tmp_path / "out")
    assert (first["text"], last["text"]) == ("the first", "the last")
    assert bad == {"error": f"{tmp_path / 'a.jsonl'}:2: --data.text: column 'text' is no text but int"}
    with pytest.raises(UserError, match=r"a\.jsonl:2: .*is no text but int \(or --data '\{\.\.\., on_bad_row: skip\}'"):
        predicted(tmp_path / "a.jsonl", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out"]


def test_documents_without_a_token_keep_their_lines_in_chunks_of_any_size(tmp_path, monkeypatch):
    recipe = support.mlm(
        "words", train__steps=1, tokenizer={"kind": "train", "algorithm": "wordpiece", "vocab_size": 90}
    )
    support.launcher("run", support.write(recipe, str(tmp_path / "words.yaml")), "--ranks", 1)
    (tmp_path / "a.jsonl").write_text('{"text": "the first"}\n{"text": " "}\n{"text": "the last"}\n')
    lines = predicted(tmp_path / "a.jsonl", tmp_path / "out.jsonl", run="runs/words")
    assert [line["text"] for line in lines] == ["the first", " ", "the last"]
    assert lines[1]["error"] == "there is no token in it"
    assert lines[0]["loss"] >= 0
    monkeypatch.setattr(tool, "_ROWS", 1)
    alone = predicted(tmp_path / "a.jsonl", tmp_path / "alone.jsonl", run="runs/words")
    assert [line.get("loss") for line in alone] == pytest.approx([line.get("loss") for line in lines], abs=1e-5)


def test_the_file_is_reported_with_the_number_of_its_lines(tmp_path, printed):
    (tmp_path / "a.txt").write_text("the first\nthe last\n")
    to = tmp_path / "out.jsonl"
    lines = printed(lambda console: tool.predict("runs/sorter", 40, str(tmp_path / "a.txt"), to, console))
    assert "".join(lines) == f"2 predictions in {to}"
    assert all(len(str(json.loads(line)["probability"])) <= len("0.123456") for line in to.read_text().splitlines())


def test_completions_are_written_and_scored_without_the_prepared_data(tmp_path, monkeypatch):
    task = {"kind": "reward", "reward": "launcher.tasks._rewards:vowels", "max_new_tokens": 4, "completions": 2}
    model = {"kind": "config", "type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 48}
    recipe = support.mlm("policy", task=task, model=model, data__max_length=14, train__steps=1)
    support.launcher("run", support.write(recipe, str(tmp_path / "policy.yaml")), "--ranks", 1)
    (tmp_path / "a.txt").write_text("the first\nthe last\n")
    trust.trust([task["reward"]])  # as --trust: the stored recipe names a function
    with monkeypatch.context() as patch:
        patch.setenv("LAUNCHER_CACHE", str(tmp_path / "empty"))
        lines = predicted(tmp_path / "a.txt", tmp_path / "out.jsonl", run="runs/policy")
    assert [(len(line["completions"]), len(line["rewards"])) for line in lines] == [(2, 2)] * 2
    export("runs/policy", "latest", tmp_path / "out", "1GiB", Console(quiet=True), CompressionOptions(prune=0.1))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| model | MiB | samples/s |\n" in card
    assert "no metrics, which are beside the model that the run began with" in card


def test_without_a_file_to_make_the_lines_are_printed(tmp_path):
    (tmp_path / "a.txt").write_text("the first\nthe last\n")
    done = support.launcher("predict", "runs/sorter", "--data", tmp_path / "a.txt")
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["the first", "the last"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("none.jsonl", r"^--data none\.jsonl: no such file$"),
        ("sorter.yaml", r"^--data sorter\.yaml: a file of an unknown kind \(known: \.jsonl, \.csv"),
        ("{kind: jsonl}", r"^--data: path: field required$"),
        ("{kind: jsonl, path: held.jsonl, txt: body}", r"^--data: txt: unknown key"),
        ("{path: held.jsonl}", r"needs a kind \(there are: "),
        ("{kind: json, path: held.jsonl}", r"^--data: unknown kind 'json' \(did you mean jsonl\?\)$"),
        ("held.jsonl", r"held\.jsonl:1: --data\.text: no column 'text' \(there are: body, label\)"),
    ],
)
def test_wrong_data_is_refused_and_nothing_is_left(tmp_path, data, what):
    with pytest.raises(UserError, match=what):
        predicted(data, tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_an_unsupported_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"out\.parquet: \.parquet is not written \(name a \.jsonl, \.csv or \.tsv\)$"):
        predicted(HELD, tmp_path / "out.parquet")


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"out\.jsonl: is there already \(name another file\)$"):
        predicted(HELD, tmp_path / "out.jsonl")
    with pytest.raises(UserError, match=r"there is no folder "):
        predicted(HELD, tmp_path / "none" / "out.jsonl")
    assert support.tree(tmp_path) == {str(tmp_path / "out.jsonl"): b"mine"}


def test_kept_columns_are_in_every_kind_of_file(tmp_path):
    texts = [row["body"] for row in sorted(held(), key=lambda row: len(row["body"]))][:4]  # none is cut
    rows = [{"id": n, "text": text, "label": "mine", "note": f"[n{n}]"} for n, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [",".join(map(str, row.values())) for row in rows]
    (tmp_path / "a.csv").write_text("\n".join(["id,text,label,note", *lines]) + "\n")
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        found = predicted(tmp_path / name, tmp_path / f"{name}.some", keep="id,label")
        assert [list(line) for line in found] == [["id", "given_label", "label", "probability"]] * 4
        assert [(str(line["id"]), line["given_label"]) for line in found] == [(str(n), "mine") for n in range(4)]
        every = predicted(tmp_path / name, tmp_path / f"{name}.all", keep="all")
        assert [(str(line["id"]), line["text"], line["given_label"], line["note"]) for line in every] == [
            (str(row["id"]), row["text"], "mine", row["note"]) for row in rows
        ]
        with pytest.raises(UserError, match=r"--keep: .*no column 'idd' \(there are: id, text, label, note\)"):
            predicted(tmp_path / name, tmp_path / "none", keep="idd")


def test_a_source_without_columns_of_its_own_keeps_what_it_gives(tmp_path):
    (tmp_path / "a.txt").write_text("the first\nthe last\n")
    assert [line["text"] for line in predicted(tmp_path / "a.txt", tmp_path / "1", keep="all")] == [
        "the first",
        "the last",
    ]
    with pytest.raises(UserError, match=r"^--keep id: no such column \(there are: text\)$"):
        predicted(tmp_path / "a.txt", tmp_path / "2", keep="id")


def test_all_scores_are_listed_the_best_first(tmp_path):
    lines = predicted(HELD, tmp_path / "out.jsonl", top_k=99)
    for line in lines:
        shares = [one["probability"] for one in line["scores"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert sorted(one["label"] for one in line["scores"]) == ["few", "many", "some"]
        assert line["scores"][0] == {"label": line["label"], "probability": line["probability"]}
    assert [len(line["scores"]) for line in predicted(HELD, tmp_path / "two.jsonl", top_k=2)] == [2] * len(lines)


def test_a_csv_has_the_same_values_and_opens_as_a_table(tmp_path, printed):
    whole = predicted(HELD, tmp_path / "out.jsonl", keep="all", top_k=2)
    to = tmp_path / "out[d].csv"
    lines = printed(lambda console: tool.predict("runs/sorter", "latest", HELD, to, console, "all", 2), 400)
    cut = sum("truncated" in line for line in whole)
    note = f"note: {cut} of {len(whole)} rows are cut at 32 tokens (`truncated` in their lines)"
    assert lines == [note, f"{len(whole)} predictions in {to}"]
    with to.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["body"], row["label"], float(row["probability"])) for row in rows] == [
        (line["body"], line["label"], line["probability"]) for line in whole
    ]
    assert [json.loads(row["scores"]) for row in rows] == [line["scores"] for line in whole]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out[d].csv"]


def test_masks_in_texts_are_filled_as_the_pipeline_of_transformers_does(tmp_path):
    from transformers import pipeline

    recipe = support.mlm("masked", train__steps=20, optimizer__lr=0.01)
    support.launcher("run", support.write(recipe, str(tmp_path / "masked.yaml")), "--ranks", 1)
    texts = [
        "the first [MASK]",
        "every [MASK] of the last [MASK] reads a batch",
        "no mask at all",
        "[MASK]",
        "a rank [MASK]",
    ]
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    lines = predicted(tmp_path / "a.txt", tmp_path / "out.jsonl", run="runs/masked", top_k=3)
    assert [len(line.get("fills", [])) for line in lines] == [1, 2, 0, 1, 1]
    assert "loss" in lines[2]
    support.launcher("export", "runs/masked", "--to", tmp_path / "model")
    fill = pipeline("fill-mask", str(tmp_path / "model"), top_k=3)
    for line in (line for line in lines if "fills" in line):
        expected = fill(line["text"])
        expected = expected if isinstance(expected[0], list) else [expected]
        for fills, one in zip(line["fills"], expected, strict=True):
            assert [(proposal["token"], proposal["id"]) for proposal in fills] == [
                (e["token_str"], e["token"]) for e in one
            ]
            scores = [proposal["probability"] for proposal in fills]
            assert scores == pytest.approx([e["score"] for e in one], abs=1e-6)
    long = "the first " * 40
    (tmp_path / "long.txt").write_text(f"{long}[MASK]\n[MASK] {long}\n[MASK]\n")
    cut, seen, short = predicted(tmp_path / "long.txt", tmp_path / "long.jsonl", run="runs/masked")
    assert cut["error"] == "a [MASK] is cut off: the text has more than 32 tokens"
    assert len(seen["fills"]) == 1
    assert (seen["truncated"], "truncated" in short) == (True, False)


def test_a_row_without_a_token_takes_no_prediction_of_a_row_with_two_samples(tmp_path):
    """There are as many samples as rows, but not one per row."""
    task = {"kind": "mlm", "samples": "documents", "overflow": "split"}
    recipe = support.mlm("parts", task=task, data__max_length=16, train__steps=2)
    support.launcher("run", support.write(recipe, str(tmp_path / "parts.yaml")), "--ranks", 1)
    rows = [{"text": "the first " * 12}, {"text": ""}, {"text": "a last"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, none, last = predicted(tmp_path / "a.jsonl", tmp_path / "out.jsonl", run="runs/parts")
    assert len(first["parts"]) == 2
    assert none == {"text": "", "error": "there is no token in it"}
    assert "loss" in last


def test_what_quotes_join_is_noted_once_the_rows_were_read(tmp_path, printed):
    (tmp_path / "a.csv").write_text('text\none row\n"of two\nlines"\n')
    out = printed(
        lambda console: tool.predict("runs/sorter", "latest", str(tmp_path / "a.csv"), tmp_path / "o", console)
    )
    assert [line.startswith("note: line breaks inside quotes in 1 row of ") for line in out[:-1]].count(True) == 1
    assert "where quotes are part of the text, set --data.quote: none" in "".join(out)
