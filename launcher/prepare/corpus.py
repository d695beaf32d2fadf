"""From a recipe's sources to a prepared folder: tokenizer, samples as Arrow files, and the facts about them.

The folder is named by its content: source bytes or revisions, tokenizer, what the task's samples depend on, and the
version of this code. Sources are read and tokenised shard by shard, in parallel processes; what is finished outlives a
kill. Weights of a mixture and how tokens are masked are no part of it: they are decided when a step is drawn.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from launcher.config import kinds
from launcher.config.errors import Problem, UserError
from launcher.config.files import flush_tree, write
from launcher.config.recipe import Fraction, Recipe, TrainTokenizer
from launcher.plan.facts import Facts
from launcher.plan.plan import free_bytes, human, plural
from launcher.prepare import bundle, cache, duplicates, processes, reading, shards, tokenizer
from launcher.prepare.lease import Lease, Lost
from launcher.prepare.reading import Side
from launcher.prepare.shards import SIDES, Counted, Job

VERSION = 2
"""Part of every prepared folder's name: raise it when the same input gives other samples."""

_NOTHING = "there is no document in it (is the path, the column or the split right?)"


def identity(recipe: Recipe) -> str:
    """The name of the prepared folder: where the content was found is no part of it. That of a bundle is taken from it.
    Raises UserError with every source that cannot be found."""
    if held := bundle.identity(recipe):
        return held
    task = kinds.of("tasks", recipe.task).Task
    fraction = recipe.data.validation.fraction if isinstance(recipe.data.validation, Fraction) else None
    parts: list[Any] = [VERSION, recipe.data.max_length, recipe.data.deduplicate, fraction, task.prepared(recipe.task)]
    problems: list[str | Problem] = []
    found = reading.leaves(recipe.data)
    for leaf in found:
        parts.append([leaf.side, leaf.name, leaf.config.model_dump(mode="json", exclude={"path", "name", "revision"})])
    made = [partial(kinds.of("data", leaf.config).fingerprint, leaf.config, leaf.key) for leaf in found]
    for fingerprint in (*made, partial(tokenizer.fingerprint, recipe)):
        try:
            parts.append(fingerprint())
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def find(name: str) -> Path | None:
    """The prepared folder of this name where there is one."""
    folder = cache.path(name)
    return folder if folder.is_dir() else None


def prepare(recipe: Recipe, name: str | None = None, most: int | None = None) -> Path:
    """The prepared folder, made now where it is not there. `name`: its identity, where that is known already: it takes
    reading the sources. `most`: processes to make it with (None: one a processor). Raises UserError for mistakes in the
    data, and for a full disk."""
    name = name or identity(recipe)
    while find(name) is None:
        try:
            with cache.making(name) as making:
                if making is not None:
                    _make(_Preparation(recipe, name, making.work, making.whole, making.lease, most), making)
        except Lost:  # this process was held up for so long that another has taken over: wait for it
            continue
        except Exception as error:
            if isinstance(error, UserError) or not _no_room(error):
                raise
            raise UserError(_full(cache.path(name))) from None
    cache.sweep(name)  # after one that was killed when it had all but finished
    return cache.path(name)


def _make(preparation: "_Preparation", making: cache.Making) -> None:
    """Of a mistake in the data nothing is kept: without it, the folder has another name."""
    try:
        preparation.make()
    except UserError:
        making.forget()
        raise


@dataclass(frozen=True)
class _Preparation:
    """One attempt at making a folder; from top to bottom in `make`."""

    recipe: Recipe
    name: str
    work: Path
    whole: Path
    lease: Lease
    most: int | None

    def make(self) -> None:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are parallel
        recipe, task = self.recipe, kinds.of("tasks", self.recipe.task).Task
        found = reading.shards(reading.leaves(recipe.data))
        self._note_size(found)
        jobs = [Job(shard, recipe.data, recipe.task, self.work) for shard in found]
        if task.surveyed or recipe.data.deduplicate:
            self._run(shards.look, jobs, "looking through")
        survey = task.survey(recipe.task, self._values(jobs)) if task.surveyed else {}
        if recipe.data.deduplicate:
            train = [job for job in jobs if job.shard.leaf.side == "train"]
            duplicates.drop([job.hashes for job in train], [job.dropped for job in train])
        self._tokenizer(jobs)
        task(recipe.task, self._known(survey))  # a tokenizer that it cannot use is told before all is tokenised
        jobs = [replace(job, survey=survey) for job in jobs]
        self._run(shards.features, jobs, "tokenising")
        counted = [Counted(**json.loads(job.made.read_text(encoding="utf-8"))) for job in jobs]
        self._check(jobs, counted)
        for side in SIDES:
            self._join(jobs, side)
        shutil.copytree(self.work / "tokenizer", self.whole / "tokenizer")
        facts = self._facts(jobs, counted, survey)
        (self.whole / "facts.json").write_text(facts.model_dump_json(indent=1), encoding="utf-8")
        if identity(recipe) != self.name:
            raise UserError(Problem("data.train", "the source changed while it was being prepared (start again)"))

    def _run(self, function: Any, jobs: Sequence[Job], what: str) -> None:
        processes.run(function, jobs, what, self.lease, self.most)

    def _note_size(self, found: Sequence[reading.Shard]) -> None:
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
        ids = json.loads((self.work / "ids.json").read_text(encoding="utf-8"))
        nothing: dict[str, Any] = {"samples": {}, "tokens": {}, "baseline": {}}
        return Facts(digest=self.name, **ids, labels=survey.get("labels", []), longest=1, **nothing)

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
            if not any(c.samples[job.shard.leaf.side] for job, c in mine):
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

    def _facts(self, jobs: Sequence[Job], counted: Sequence[Counted], survey: dict[str, Any]) -> Facts:
        known = self._known(survey)
        sides = [side for side in SIDES if sum(c.samples[side] for c in counted)]
        lengths, sources, left_out = Counter[int](), Counter[str](), Counter[str]()
        for job, c in zip(jobs, counted, strict=True):
            lengths.update({int(length): count for length, count in c.lengths.items()})
            left_out.update({"bad": c.bad, "duplicates": c.duplicates, "empty": c.empty})
            if job.shard.leaf.side == "train":
                sources[job.shard.leaf.name] += c.samples["train"]
        baseline = {}
        if "validation" in sides:
            task = kinds.of("tasks", self.recipe.task).Task
            baseline = task.baseline(self.recipe.task, _tables(self.whole / "validation.arrow"), known.special_ids)
        found = {
            "longest": max(*lengths, *(_longest(self.whole / f"{s}.arrow") for s in sides if s != "train"), 1, 1),
            "documents": {side: sum(c.documents[side] for c in counted) for side in sides},
            "samples": {side: sum(c.samples[side] for c in counted) for side in sides},
            "tokens": {side: sum(c.tokens[side] for c in counted) for side in sides},
            "baseline": baseline,
            "sources": dict(sources),
            "lengths": dict(sorted(lengths.items())),
            "left_out": {name: count for name, count in left_out.items() if count},
            "notes": _examples(counted),
        }
        return known.model_copy(update=found)


def _without_a_sample(counted: Sequence[Counted]) -> str:
    """Why a source gave nothing to learn from."""
    bad, again, empty = (sum(getattr(c, name) for c in counted) for name in ("bad", "duplicates", "empty"))
    if bad:
        return f"none of its {plural(bad, 'row')} can be used: {next(c.example for c in counted if c.bad)}"
    if again:
        return f"each of its {plural(again, 'row')} stands in it, or in a source before it, already (data.deduplicate)"
    return f"none of its {plural(empty, 'document')} holds a token of the tokenizer" if empty else _NOTHING


def _ids(made: Any) -> dict[str, Any]:
    """What a plan needs to know of a tokenizer."""
    special = sorted(made.all_special_ids)
    return {
        "vocab_size": max(len(made), max(special, default=0) + 1),
        "pad_token_id": made.pad_token_id if made.pad_token_id is not None else 0,
        "mask_token_id": made.mask_token_id,
        "special_ids": special,
    }


def _sampled(file: Path) -> Iterator[str]:
    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        for batch in stream:
            yield from batch.column("text").to_pylist()


def _tables(file: Path) -> Iterator[pa.Table]:
    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        for batch in stream:
            yield pa.Table.from_batches([batch])


def _longest(file: Path) -> int:
    return max(int(table["length"].to_numpy().max()) for table in _tables(file))


def _examples(counted: Sequence[Counted]) -> list[str]:
    """What the user should know of rows that were left out."""
    bad = sum(c.bad for c in counted)
    return [f"{plural(bad, 'bad row')} left out, the first: {next(c.example for c in counted if c.bad)}"] if bad else []


def _no_room(error: Exception) -> bool:
    """Whether the disk is full, or one's share of it. Not every library says so by a number."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in numbers or any(os.strerror(number) in str(error) for number in numbers)


def _full(final: Path) -> str:
    """What to do about a full disk: how much is needed in all, and what there is. Samples stand there twice while they
    are joined, and take about half of their text; a sample of the texts, for the tokenizer, up to all of it."""
    work = final.with_name(f".{final.name}.work")
    sizes = {file: file.stat().st_size for file in work.rglob("*") if file.is_file()}
    samples = sum(size for file, size in sizes.items() if file.name.startswith(SIDES))
    try:
        size, of = map(int, (work / "size").read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        size, of = 0, 1
    made = len(list(work.glob("shard-*.json")))
    there = sum(sizes.values())
    need = there - samples + 2 * samples * of // made if made else max(there, size) + size
    free = human(free_bytes(final.parent))
    told = f"the disk of {final.parent} is full: about {human(need)} are needed in all, {free} are free"
    kept = f"{made} of {plural(of, 'shard')} are finished, stay in {work} ({human(there)}) and are gone on with"
    return f"{told} (make room there, or set LAUNCHER_CACHE to another disk); {kept}"
