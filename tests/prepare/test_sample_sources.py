"""The rows of prepared samples, compared with the files that they come from."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import support

from launcher.config import load
from launcher.data import _files
from launcher.prepare import run_setup, sample_sources, source_shards
from launcher.prepare.encode import Encoder
from launcher.prepare.prepared_samples import PreparedSamples

VALIDATION = {"validation": {"fraction": 0.2}}


def found(recipe):
    """(sample ids, documents by id, samples, encoder) of all training samples."""
    loaded = load.recipe(support.write(recipe))
    prepared, facts = run_setup.prepare(loaded)
    with sample_sources.opened(loaded.value, facts, prepared) as sources:
        documents = sources.documents(range(facts.samples["train"]))
    samples = PreparedSamples(prepared, "train")
    assert sorted(documents) == list(range(len(samples)))
    return documents, samples.rows(range(len(samples))), Encoder(prepared / "tokenizer")


def line(place):
    file, _, number = place.rpartition(":")
    return Path(file).read_text().split("\n")[int(number) - 1]


def tokens(encoder, text):
    return [*encoder.prefix.tolist(), *encoder.backend.encode(text, add_special_tokens=False).ids, *encoder.suffix]


def truncated(encoder, text, length):
    whole = tokens(encoder, text)
    return whole if len(whole) <= length else [*whole[: length - 1], whole[-1]]


@pytest.fixture
def small_parts(workspace, monkeypatch):
    """A corpus of several shards and several batches a shard, in a cache of its own: other tests may prepare the same
    text in shards of the usual size."""
    monkeypatch.setenv("LAUNCHER_CACHE", str(workspace / "cache"))
    monkeypatch.setattr(_files, "PART", 2000)
    monkeypatch.setattr(source_shards, "_BATCH_ROWS", 7)
    support.corpus(workspace)


@pytest.mark.parametrize("deduplicate", [False, True])
def test_documents_of_lines(small_parts, deduplicate):
    text = Path("corpus.txt").read_text()
    Path("corpus.txt").write_text(text + "\n" + "".join(text.splitlines(keepends=True)[:40]))
    documents, samples, encoder = found(support.mlm(data__deduplicate=deduplicate))
    for id, (document,) in documents.items():
        assert samples[id]["input_ids"].tolist() == truncated(encoder, line(document.place), 32)
        assert (document.start, document.stop, document.source) == (0, len(samples[id]["input_ids"]), "text")
    places = [int(document.place.rpartition(":")[2]) for (document,) in documents.values()]
    assert places == sorted(set(places)) and (max(places) < 121) == deduplicate


def test_chunks_of_several_documents(small_parts):
    documents, samples, encoder = found(support.mlm(task__samples="chunks"))
    for id, parts in documents.items():
        joined = []
        for part in parts:
            assert part.start == len(joined)
            joined += tokens(encoder, line(part.place))[part.skipped :][: part.stop - part.start]
        assert samples[id]["input_ids"].tolist() == joined
    assert max(map(len, documents.values())) > 2


def test_pieces_of_a_split_document(small_parts):
    recipe = support.mlm(task={"kind": "mlm", "samples": "documents", "overflow": "split", "stride": 4})
    documents, samples, encoder = found(recipe)
    for id, (document,) in documents.items():
        inner, first = tokens(encoder, line(document.place))[1:-1], document.piece * 26
        assert samples[id]["input_ids"].tolist()[1:-1] == inner[first : first + 30]
    assert max(document.piece for (document,) in documents.values()) > 1


def test_a_mixture_of_files_with_bad_rows_and_a_limit(small_parts):
    draw = random.Random(0)
    rows = [{"body": " ".join(draw.choices(support.WORDS, k=6))} if n % 5 else {"other": 1} for n in range(60)]
    Path("b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = {
        "lines": {"kind": "text", "path": "corpus.txt", "document": "line", "limit": 50},
        "rows": {"kind": "jsonl", "path": "b.jsonl", "text": "body", "on_bad_row": "skip"},
    }
    train = {"kind": "mixture", "sources": sources, "weights": {"lines": 1.0, "rows": 3.0}}
    documents, samples, encoder = found(support.mlm(data={"train": train, **VALIDATION, "max_length": 64}))
    for id, (document,) in documents.items():
        text = line(document.place)
        text = json.loads(text)["body"] if document.source == "rows" else text
        assert samples[id]["input_ids"].tolist() == truncated(encoder, text, 64)
    assert {document.source for (document,) in documents.values()} == {"lines", "rows"}


def test_labelled_rows_of_a_stratified_split(small_parts):
    validation = {"fraction": 0.2, "stratify": "auto"}
    documents, samples, encoder = found(support.classification(data__validation=validation))
    for id, (document,) in documents.items():
        text = json.loads(line(document.place))["text"]
        assert samples[id]["input_ids"].tolist() == truncated(encoder, text, 32)


def test_another_source_is_not_attributed(small_parts):
    """Units that were counted for other data are found out: by their number, or by the tokens."""
    loaded = load.recipe(support.write(support.mlm()))
    prepared, facts = run_setup.prepare(loaded)
    with sample_sources.opened(loaded.value, facts, prepared) as sources:
        sources.documents([0])
    lines = Path("corpus.txt").read_text().splitlines()
    lines[0], lines[1] = lines[1] + " same", lines[0]
    Path("corpus.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(sample_sources.Unattributable), sample_sources.opened(loaded.value, facts, prepared) as sources:
        sources.documents(np.arange(facts.samples["train"]).tolist())
