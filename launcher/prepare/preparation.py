"""One attempt at making a prepared folder, from reading the sources to the facts about it."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from launcher.config import plugins
from launcher.config.atomic_files import flush_tree, write
from launcher.config.errors import Problem, UserError
from launcher.config.format import plural
from launcher.config.recipe import Fraction, Recipe, TrainTokenizer
from launcher.plan.facts import Facts, TruncationCounts
from launcher.prepare import duplicates, process_pool, shards, source_shards, strata, tokenizer
from launcher.prepare.encode import pieces
from launcher.prepare.shards import SIDES, Counted, Job
from launcher.prepare.source_shards import Side
from launcher.prepare.strata import Strata
from launcher.storage.lease import Lease

_TRAINED_AT_ONCE = 2**16
"""Characters of the longest text that a tokenizer is trained from as a whole."""

_NOTES = 5
"""Notes on files that are kept, at the most."""

_NO_TOKENS: dict[str, Any] = {"vocab_size": 0, "pad_token_id": 0, "mask_token_id": None, "special_ids": []}
_NOTHING = "there is no document in it (is the path, the column or the split right?)"


@dataclass(frozen=True)
class Preparation:
    """`make` does it, from top to bottom. `name`: the identity of the content; `work`: what outlives a kill; `whole`:
    what will be the folder; `most`: processes to do it with. Raises UserError for mistakes in the data."""

    recipe: Recipe
    name: str
    work: Path
    whole: Path
    lease: Lease
    most: int | None

    def make(self) -> None:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are parallel
        recipe, task = self.recipe, plugins.task(self.recipe.inner_task)
        found = source_shards.shards(source_shards.leaves(recipe.data))
        self._note_size(found)
        jobs = [Job(shard, recipe.data, recipe.inner_task, self.work) for shard in found]
        if task.survey_columns or recipe.data.deduplicate:
            self._run(shards.look, jobs, "looking through")
        survey = task.survey(recipe.inner_task, self._values(jobs)) if task.survey_columns else {}
        if recipe.data.deduplicate:
            train = [job for job in jobs if job.shard.leaf.side == "train"]
            duplicates.drop([job.hashes for job in train], [job.dropped for job in train])
        split = self._strata(jobs)
        jobs = [replace(job, survey=survey, strata=split) for job in jobs]
        if task.tokenized:
            self._tokenizer(jobs)
        task(recipe.inner_task, self._known(survey))  # a tokenizer that it cannot use is told before all is tokenised
        self._run(shards.features, jobs, "tokenising" if task.tokenized else "making samples")
        counted = [Counted(**json.loads(job.made.read_text(encoding="utf-8"))) for job in jobs]
        self._check(jobs, counted)
        for side in SIDES:
            self._join(jobs, side)
        if task.tokenized:
            shutil.copytree(self.work / "tokenizer", self.whole / "tokenizer")
        facts = self._facts(jobs, counted, survey)
        (self.whole / "facts.json").write_text(facts.model_dump_json(indent=1), encoding="utf-8")

    def _strata(self, jobs: Sequence[Job]) -> Strata | None:
        files, validation = [job.labels for job in jobs if job.stratified], self.recipe.data.validation
        return strata.of(files, validation.fraction) if files and isinstance(validation, Fraction) else None

    def _run(self, function: Any, jobs: Sequence[Job], what: str) -> None:
        process_pool.run(function, jobs, what, self.lease, self.most)

    def _note_size(self, found: Sequence[source_shards.Shard]) -> None:
        """How much there is to do, for the message of a full disk."""
        write(self.work / "size", f"{sum(shard.size for shard in found)} {len(found)}")

    def _values(self, jobs: Sequence[Job]) -> dict[str, set[str]]:
        """Every value of the surveyed columns."""
        values: dict[str, set[str]] = {}
        for job in jobs:
            for name, seen in json.loads(job.looked.read_text(encoding="utf-8")).items():
                values.setdefault(name, set()).update(seen)
        return values

    def _tokenizer(self, jobs: Sequence[Job]) -> None:
        folder, aside = self.work / "tokenizer", self.work / ".tokenizer"
        if folder.is_dir():
            return
        where = tokenizer.source(self.recipe)
        if isinstance(where, TrainTokenizer):
            sample = self._sample(jobs, where.sample)
            made = tokenizer.train(where, lambda: _sampled(sample))
        else:
            made = tokenizer.load(where, "tokenizer" if self.recipe.tokenizer is None else "tokenizer.name")
        shutil.rmtree(aside, ignore_errors=True)
        made.save_pretrained(aside)
        flush_tree(aside)
        write(self.work / "ids.json", json.dumps(_ids(made)))
        aside.rename(folder)
        (self.work / "sample.arrow").unlink(missing_ok=True)

    def _known(self, survey: dict[str, Any]) -> Facts:
        """What is known before a sample is made."""
        file = self.work / "ids.json"
        ids = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else _NO_TOKENS
        nothing: dict[str, Any] = {"samples": {}, "tokens": {}, "baseline": {}}
        found = {"labels": survey.get("labels", []), "shape": tuple(survey.get("shape", ()))}
        return Facts(digest=self.name, **ids, **found, longest=1, **nothing)

    def _sample(self, jobs: Sequence[Job], most: int | None) -> Path:
        """A file of the texts that the tokenizer is trained from: of each shard of the training side its share."""
        train = [job for job in jobs if job.shard.leaf.side == "train"]
        share = 2**62 if most is None else -(-most // max(1, len(train)))
        file = self.work / "sample.arrow"
        with pa.ipc.new_stream(file, pa.schema({"text": pa.large_string()})) as writer:
            for job in train:
                for texts in shards.texts(job, share):
                    writer.write_batch(pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.large_string())}))
                self.lease.check()
        return file

    def _check(self, jobs: Sequence[Job], counted: Sequence[Counted]) -> None:
        """Raises UserError for a side, or a source of a mixture, without a sample."""
        data = self.recipe.data
        documents = {side: sum(c.documents[side] for c in counted) for side in SIDES}
        total, held = sum(documents.values()), documents["validation"]
        if isinstance(data.validation, Fraction) and total and held in (0, total):
            what = f"holds out {held} of {total} documents: nothing is left for one side (change the fraction)"
            raise UserError(Problem("data.validation.fraction", what))
        problems: list[str | Problem] = []
        for leaf in dict.fromkeys(job.shard.leaf.key for job in jobs):
            mine = [(job, c) for job, c in zip(jobs, counted, strict=True) if job.shard.leaf.key == leaf]
            if not any(c.lengths[job.shard.leaf.side] for job, c in mine):
                problems.append(Problem(leaf, _without_a_sample([c for _, c in mine])))
        if problems:
            raise UserError(problems)

    def _join(self, jobs: Sequence[Job], side: Side) -> None:
        """The samples of all shards in one file, a record batch for each."""
        there = [job for job in jobs if job.samples(side).is_file()]
        if not there:
            return
        with pa.ipc.open_stream(there[0].samples(side)) as first:
            schema = first.schema
        with pa.ipc.new_stream(self.whole / f"{side}.arrow", schema) as writer:
            for job in there:
                with pa.memory_map(str(job.samples(side))) as file, pa.ipc.open_stream(file) as stream:
                    if stream.schema != schema:
                        what = "pairs of texts in one source and single texts in another do not mix"
                        raise UserError(Problem(job.shard.leaf.key, what))
                    for batch in stream:
                        writer.write_batch(batch)
                self.lease.check()

    def _cut(self, counted: Sequence[Counted], side: Side) -> TruncationCounts:
        total = Counter[str]()
        for c in counted:
            total.update(c.cut.get(side, {}))
        known = {name: total[name] for name in TruncationCounts.model_fields if name in total}
        return TruncationCounts(tokens=self.recipe.data.max_length, of=sum(c.documents[side] for c in counted), **known)

    def _facts(self, jobs: Sequence[Job], counted: Sequence[Counted], survey: dict[str, Any]) -> Facts:
        known = self._known(survey)
        lengths = {side: _lengths(counted, side) for side in SIDES if any(c.lengths[side] for c in counted)}
        sources, left_out = Counter[str](), Counter[str]()
        for job, c in zip(jobs, counted, strict=True):
            left_out.update({"bad": c.bad, "duplicates": c.duplicates, "empty": c.empty})
            if job.shard.leaf.side == "train":
                sources[job.shard.leaf.name] += sum(c.lengths["train"].values())
        task = self.recipe.inner_task
        plugin = plugins.task(task)
        counts, baseline = plugin.count_labels(task, _tables(self.whole / "train.arrow"), len(known.labels)), {}
        if "validation" in lengths:
            baseline = plugin.baseline(task, _tables(self.whole / "validation.arrow"), known.special_ids)
        found = {
            "longest": max(length for of_side in lengths.values() for length in of_side),
            "documents": {side: sum(c.documents[side] for c in counted) for side in lengths},
            "samples": {side: of_side.total() for side, of_side in lengths.items()},
            "tokens": {side: sum(n * count for n, count in of_side.items()) for side, of_side in lengths.items()},
            "baseline": baseline,
            "counts": counts,
            "sources": dict(sources),
            "lengths": dict(sorted(lengths["train"].items())),
            "left_out": {name: count for name, count in left_out.items() if count},
            "cut": {side: self._cut(counted, side) for side in lengths},
            "notes": [*_notes(counted), *(jobs[0].strata.notes() if jobs[0].strata is not None else [])],
        }
        return known.model_copy(update=found)


def _without_a_sample(counted: Sequence[Counted]) -> str:
    """Why a source gave nothing to learn from."""
    bad, again, empty = (sum(getattr(c, name) for c in counted) for name in ("bad", "duplicates", "empty"))
    if bad:
        return f"none of its {plural(bad, 'row')} can be used: {next(c.example for c in counted if c.bad)}"
    if again:
        return f"each of its {plural(again, 'row')} stands in it, or in a source before it, already (data.deduplicate)"
    return f"no token is found in {plural(empty, 'document')}, which is all of it" if empty else _NOTHING


def _ids(made: Any) -> dict[str, Any]:
    """What a plan needs to know of a tokenizer."""
    special = sorted(made.all_special_ids)
    return {
        "vocab_size": max(len(made), max(special, default=0) + 1),
        "pad_token_id": made.pad_token_id if made.pad_token_id is not None else 0,
        "mask_token_id": made.mask_token_id,
        "special_ids": special,
        "begin_token_id": made.cls_token_id if made.bos_token_id is None else made.bos_token_id,
        "end_token_id": made.sep_token_id if made.eos_token_id is None else made.eos_token_id,
    }


def _sampled(file: Path) -> Iterator[str]:
    """The sampled texts; long ones in pieces, of which a trainer needs some hundred bytes a character."""
    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        for batch in stream:
            for text in batch.column("text").to_pylist():
                yield from pieces(text, _TRAINED_AT_ONCE)


def _tables(file: Path) -> Iterator[pa.Table]:
    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        for batch in stream:
            yield pa.Table.from_batches([batch])


def _lengths(counted: Sequence[Counted], side: Side) -> Counter[int]:
    """The samples of a side by their number of tokens."""
    lengths = Counter[int]()
    for c in counted:
        lengths.update({int(length): count for length, count in c.lengths[side].items()})
    return lengths


def _notes(counted: Sequence[Counted]) -> list[str]:
    """What the user should know of how rows were read, and of those that were left out."""
    bad, notes = sum(c.bad for c in counted), [note for c in counted for note in c.notes]
    if len(notes) > _NOTES:
        notes = [*notes[:_NOTES], f"the same of {plural(len(notes) - _NOTES, 'more file')}"]
    first = next((c.example for c in counted if c.bad), "")
    if special := sum(c.special for c in counted):
        word = next(c.special_word for c in counted if c.special)
        what = f"{plural(special, 'text')} with words that the tokenizer reads as special tokens, the first: {word!r}"
        notes.append(f"{what} (a model that reads its output there, such as BART at the end token, refuses them)")
    return [*([f"{plural(bad, 'bad row')} left out, the first: {first}"] if bad else []), *notes]
