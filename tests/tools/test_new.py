"""`launcher new`: from a data file to a recipe that trains."""

import csv
import json
import os
import random
import sys
from pathlib import Path

import pexpect
import pytest
import support
from typer.testing import CliRunner

from launcher import cli
from launcher.config import load
from launcher.config.errors import UserError
from launcher.prepare import run_setup
from launcher.tools.new import choices


@pytest.fixture(autouse=True)
def in_a_folder(workspace, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return workspace


def rows(count=300, classes=("pos", "neg"), words=8):
    draw = random.Random(1)
    chosen = [draw.choice(classes) for _ in range(count)]
    return [(n, f"{one} " + " ".join(draw.choices(support.WORDS, k=words)), one) for n, one in enumerate(chosen)]


def table(file="reviews.csv", data=None, header=("id", "review", "sentiment"), **dialect):
    with Path(file).open("w", newline="", encoding=dialect.pop("encoding", "utf-8")) as out:
        csv.writer(out, **dialect).writerows([header, *(rows() if data is None else data)])
    return file


def new(*words, code=0):
    """The output, with that on standard error, of the command without a terminal."""
    result = CliRunner().invoke(cli.app, ["new", *map(str, words)])
    if isinstance(result.exception, UserError):
        assert code == 2, result.exception
        return str(result.exception)
    assert result.exit_code == code, result.output
    assert result.exception is None, result.exception
    return result.output


def written(name="reviews"):
    return load.recipe(f"{name}.yaml").value


def source(name="reviews"):
    return written(name).data.train.model_dump(exclude_unset=True)


def test_from_a_table_through_plan_to_a_run():
    """The commands that it prints, in their order. Ten seconds, as any run."""
    output = new(table(), "--model", "tiny")
    assert "review: text, 300 different values" in output
    for command in ("plan", "run"):
        assert f"  launcher {command} reviews.yaml" in output
    assert source() == {"kind": "csv", "path": "reviews.csv", "text": "review", "label": "sentiment"}
    planned = run_setup.dry_run(load.recipe("reviews.yaml"), load.local_cluster(), 1)
    assert planned.notes == []
    short = ["train.epochs=2", "model.num_hidden_layers=1", "model.hidden_size=32", "model.intermediate_size=64"]
    support.launcher("run", "reviews.yaml", *short, "--ranks", 1)
    losses = [step["loss"] for step in support.steps("runs/reviews").values()]
    assert losses[-1] < losses[0]
    assert {"eval/accuracy"} <= support.evaluations("runs/reviews").popitem()[1].keys()


def test_what_it_decides_for_classes():
    new(table())
    recipe = written()
    assert recipe.task.kind == "sequence_classification"
    assert recipe.data.validation.stratify == "auto"
    assert (recipe.evaluate.metric, recipe.train.global_batch, recipe.train.epochs) == ("accuracy", 16, 30)
    assert recipe.data.max_length == 32
    assert not recipe.data.deduplicate


def test_numbers_are_predicted_by_regression():
    data = [(n, text, f"{0.01 * n:.2f}") for n, text, _ in rows()]
    new(table(data=data, header=("id", "text", "score")))
    assert written().task.kind == "regression"
    assert source()["label"] == "score"
    assert load.recipe("reviews.yaml").value.evaluate.metric == "loss"


def test_texts_without_labels_are_pretrained_on():
    new("corpus.txt", "--name", "plain")
    assert source("plain") == {"kind": "text", "path": "corpus.txt", "document": "line"}
    assert written("plain").task.kind == "mlm"
    Path("texts").mkdir()
    for number in range(3):
        Path("texts", f"{number}.txt").write_text("one two three\n\nfour five", encoding="utf-8")
    new("texts")
    assert source("texts") == {"kind": "text", "path": "texts/*.txt", "document": "file"}


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_delimiters_are_found(delimiter):
    new(table(delimiter=delimiter))
    assert source()["delimiter"] == delimiter


def test_quotes_that_are_part_of_the_text_are_found():
    lines = ["text\tlabel", *(f'"{text}\t{label}' if n % 7 == 3 else f"{text}\t{label}" for n, text, label in rows())]
    Path("t.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    new("t.tsv")
    assert source("t") == {"kind": "csv", "path": "t.tsv", "delimiter": "\t", "quote": None}


def test_line_breaks_quotes_and_a_byte_order_mark():
    data = [(n, f'"{text}",\nand more', label) for n, text, label in rows()]
    new(table(data=data, header=("review", "body", "sentiment"), encoding="utf-8-sig"))
    assert source()["text"] == "body"
    assert "300 rows" in Path("reviews.yaml").read_text()


def test_json_lines_and_parquet():
    import pyarrow as pa
    import pyarrow.parquet as pq

    new("corpus.jsonl")
    assert source("corpus") == {"kind": "jsonl", "path": "corpus.jsonl"}
    data = {"text": [text for _, text, _ in rows()], "label": [label for *_, label in rows()], "tags": [["x"]] * 300}
    pq.write_table(pa.table(data), "p.parquet")
    new("p.parquet")
    assert source("p") == {"kind": "parquet", "path": "p.parquet"}


def test_names_that_yaml_would_read_otherwise_are_quoted():
    new(table(data=[(n, t, one) for n, t, one in rows()], header=("id", "yes", 'a "b": #c\n')))
    assert source()["text"] == "yes"
    assert source()["label"] == 'a "b": #c\n'


def test_repeated_texts_missing_labels_and_rare_classes_are_taken_care_of():
    data = [*rows(), *rows()[:5], (0, "a text", ""), (1, "another", "rare"), (2, "one more", "rare")]
    new(table(data=data))
    recipe = written()
    assert recipe.data.deduplicate
    assert recipe.data.train.on_bad_row == "skip"
    assert recipe.data.validation.stratify == "none"
    assert recipe.evaluate.metric == "f1"
    assert "class_weights: balanced gives rare classes more weight" in Path("reviews.yaml").read_text()


WRONG = {
    "missing.csv": (None, "missing.csv: no such file"),
    "picture.bmp": (b"BM", "no format that is known (.csv, "),
    "empty.csv": (b"", "is empty: its first line should name the columns"),
    "header.csv": (b"text,label\n", "has no rows"),
    "latin.csv": (b"text,label\n" + "caf\xe9,a\n".encode("latin-1") * 9, "not UTF-8"),
    "one.csv": (b"text,label\n" + b"some words here,a\n" * 9, "has the same value in every row"),
    "ids.csv": (
        "text,label\n" + "".join(f"some words {n},c{n}\n" for n in range(999)),
        "999 different values in 999 rows",
    ),
    "numbers.csv": (b"a,b\n" + b"1,2\n" * 9, "no column holds texts (there are: a, b"),
    "two.csv": (
        "text,kind,colour\n" + "a b c,x,r\nd e f,y,g\n" * 9,
        "the label may be in kind, colour (give --label COLUMN",
    ),
    "broken.jsonl": (b'{"text": \n' * 9, "not valid JSON"),
    "broken.parquet": (b"PAR1", "broken.parquet"),
}


@pytest.mark.parametrize("name", WRONG)
def test_data_that_is_not_understood_is_one_sentence(name):
    content, what = WRONG[name]
    if content is not None:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = new(name, "--yes", code=2)
    assert what in message
    assert not list(Path().glob("*.yaml"))


def test_options_that_do_not_fit_the_data():
    table()
    assert "--text: no column 'revue' (did you mean review?)" in new("reviews.csv", "--text", "revue", code=2)
    assert "holds texts, not numbers" in new("reviews.csv", "--task", "regression", code=2)
    assert "--name: letters, digits" in new("reviews.csv", "--name", "a b", code=2)
    assert "names of rows, not classes?" in new("reviews.csv", "--label", "id", "--task", "classify", code=2)
    assert "DATA: missing" in new(code=2)


def test_options_in_the_place_of_answers():
    words = ["--task", "pretrain", "--model", "small", "--epochs", 2, "--name", "mine", "--to", "other.yaml"]
    new(table(), *words)
    recipe = written("other")
    assert (recipe.name, recipe.task.kind, recipe.train.epochs) == ("mine", "mlm", 2)
    new(table(), "--model", "org/some-model", "--name", "b")
    assert written("b").model.name == "org/some-model"
    assert written("b").tokenizer is None


def test_no_file_is_replaced_unasked_and_a_run_keeps_its_name():
    Path("reviews.yaml").write_text("mine", encoding="utf-8")
    assert "reviews.yaml: is there already (name another file by --to)" in new(table(), "--yes", code=2)
    assert Path("reviews.yaml").read_text() == "mine"
    Path("runs/reviews").mkdir(parents=True)
    new("reviews.csv")
    assert written("reviews-2").name == "reviews-2"


def test_a_hundred_thousand_rows_and_classes():
    lines = "".join(json.dumps({"text": f"text number {n}", "label": n}) + "\n" for n in range(100_000))
    Path("many.jsonl").write_text(lines, encoding="utf-8")
    new("many.jsonl", "--task", "pretrain")
    assert "DATA:" in new("many.jsonl", "--task", "classify", "--label", "label", code=2)


def test_questions_on_a_terminal():
    """Five questions with defaults, and one more before a file is replaced. Three seconds: what prompts show."""
    Path("reviews.yaml").write_text("mine", encoding="utf-8")
    table(header=("notes", "review", "sentiment"), data=[(f"note {n}", text, one) for n, text, one in rows()])
    child = pexpect.spawn(
        sys.executable, ["-m", "launcher", "new", "reviews.csv"], encoding="utf-8", timeout=120,
        env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    answers = {
        "Column of the text (review, notes) [review]: ": "",
        "What to predict from review (sentiment, or nothing: pretrain) [sentiment]: ": "sentimnt",
        "did you mean sentiment?": "",
        "Model: tiny, mini, small, base (from scratch), or a pretrained one [mini]: ": "tiny",
        "Epochs (passes over the data) [30]: ": "4",
        "Name of the run [reviews]: ": "first",
        "wrote first.yaml": None,
    }
    for question, answer in answers.items():
        child.expect_exact(question)
        if answer is not None:
            child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert written("first").train.epochs == 4
    assert Path("reviews.yaml").read_text() == "mine"


@pytest.mark.parametrize(("answer", "fits"), [("3", True), ("0", False), ("²", False), ("-1", False), ("x", False)])
def test_a_number_of_epochs_is_a_whole_number(answer, fits):
    assert (choices._whole(answer) is None) is fits
