"""Show the samples of a step of a run, the rows that they come from, and whether the run recorded the same step."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from launcher.config import env_vars, plugins
from launcher.config.errors import UserError, one_line
from launcher.config.format import plural
from launcher.config.types import JsonObject
from launcher.distributed import output_streams
from launcher.prepare import sample_sources
from launcher.prepare import tokenizer as tokenizers
from launcher.prepare.sample_sources import Document
from launcher.storage import roll_backs
from launcher.tasks import IGNORE, Sample, Task
from launcher.tools.parity import TOLERANCE
from launcher.tools.progress import progress
from launcher.tools.seen import run_data, step_samples
from launcher.tools.seen.replay import Replay, replay
from launcher.tools.seen.run_data import RunData
from launcher.tools.seen.step_samples import StepSamples
from launcher.tools.step_records import StepRecords, relative_difference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SeenStep:
    """A step, and what is known about it.

    `documents`: by sample id; empty: `changed` says why. `record`: of the metrics; None: there is none. `ranks`: that
    trained the step; 0: not known. `rows`: row and first position of packed samples, by their places. `left_out`:
    whether the step had no update, after a spike.
    """

    data: RunData
    chosen: StepSamples
    documents: Mapping[int, Sequence[Document]]
    changed: str
    record: JsonObject | None
    ranks: int
    rows: Mapping[int, tuple[int, int]]
    left_out: bool
    replayed: Replay | None = None

    @property
    def same(self) -> bool:
        """Whether nothing contradicts the record."""
        differs = self.record is not None and self.record.get("data") != self.chosen.digest
        return not differs and (self.replayed is None or self.replay_difference <= TOLERANCE[self.precision][1])

    @property
    def precision(self) -> str:
        return self.data.recipe.train.precision

    @property
    def replay_difference(self) -> float:
        """Largest relative difference between the replayed loss and gradient norm and the recorded ones; 0 without a
        record."""
        if self.replayed is None or self.record is None:
            return 0.0
        pairs = [(self.replayed.loss, self.record["loss"]), (self.replayed.grad_norm, self.record.get("grad_norm"))]
        return max(relative_difference(here, there) for here, there in pairs)


def seen(run: str, step: int, replays: bool, limit: int, as_json: bool) -> int:
    """Print a step. Returns the exit code: 1 if the digest or the replay differs from the run's record, else 0. Raises
    UserError."""
    env_vars.set_rank_defaults(os.environ)
    data = run_data.of(run)
    chosen = step_samples.of(data, step)
    documents, changed = _documents(data, chosen, limit)
    record, replayed = StepRecords(data.folder.metrics).of(step), None
    ranks, rows = step_samples.packed_rows(data, chosen)
    if replays:
        with progress(Console(stderr=True), "steps replayed", 0) as advance:
            replayed = replay(data, step, advance)
    left_out = step in roll_backs.left_out(data.folder)
    found = SeenStep(data, chosen, documents, changed, record, ranks, rows, left_out, replayed)
    if as_json:
        print(output_streams.as_json(json.dumps(_as_json(found, limit), indent=1, ensure_ascii=False)))
    else:
        _show(found, limit, Console())
    return 0 if found.same else 1


def _documents(data: RunData, chosen: StepSamples, limit: int) -> tuple[Mapping[int, Sequence[Document]], str]:
    """Return the rows of the first `limit` samples by sample id, and why they are not known."""
    if data.changed:
        return {}, data.changed
    try:
        waiting = Console(stderr=True).status("finding the rows of the samples")
        with waiting, sample_sources.opened(data.recipe, data.facts, data.prepared) as sources:
            return sources.documents(chosen.ids[:limit].tolist()), ""
    except UserError as error:
        return {}, str(error.problems[0])


def _show(found: SeenStep, limit: int, console: Console) -> None:
    """Print the samples, the digest and the replay."""
    chosen, wide = found.chosen, not console.is_terminal
    what = f"step {chosen.step} of {chosen.steps:,}: {plural(len(chosen.ids), 'sample')}, in the order of the batch"
    console.print(f"{one_line(str(found.data.folder.path))}: {what}", highlight=False, markup=False, soft_wrap=wide)
    task, words = _decoder(found.data)
    for place in range(min(limit, len(chosen.ids))):
        title = Text(f"{place + 1:>4}  {_title(found, place)}", style="bold")
        console.print(title, soft_wrap=wide)
        text = _rendered(task, chosen.samples[place], words)
        console.print(Text("      ") + text if wide else Padding(text, (0, 0, 0, 6)), soft_wrap=wide)
    if (more := len(chosen.ids) - limit) > 0:
        console.print(f"{more} more (--limit {len(chosen.ids)} shows all)", highlight=False, soft_wrap=wide)
    for line in _verdicts(found):
        console.print(line, highlight=False, markup=False, soft_wrap=wide)


def _decoder(data: RunData) -> tuple[Task, "PreTrainedTokenizerBase | None"]:
    folder = data.prepared / "tokenizer"
    words = tokenizers.load(str(folder), "tokenizer") if folder.is_dir() else None
    return plugins.task(data.recipe.task)(data.recipe.task, data.facts), words


def _title(found: SeenStep, place: int) -> str:
    """Return the id of a sample, and its rows."""
    id, parts = int(found.chosen.ids[place]), found.documents.get(int(found.chosen.ids[place]), ())
    named = len(found.data.facts.sources) > 1
    where = "; ".join(_where(part, len(parts) > 1, named) for part in parts)
    row = found.rows.get(place)
    packed = f", row {row[0] + 1} from token {row[1]} on {plural(found.ranks, 'rank')}" if row is not None else ""
    return one_line(f"sample {id}, epoch {found.chosen.epochs[place]}{packed}{': ' if where else ''}{where}")


def _where(part: Document, several: bool, named: bool) -> str:
    """Return the place of a row, with its source in a mixture, and its tokens if the sample has `several` rows."""
    place = f"{part.source}: {part.place}" if named else part.place
    place += f" (piece {part.piece + 1})" if part.piece else ""
    place += f" from its token {part.skipped}" if part.skipped else ""
    return f"tokens {part.start}-{part.stop - 1} {place}" if several else place


def _rendered(task: Task, sample: Sample, words: "PreTrainedTokenizerBase | None") -> Text:
    text = Text.from_markup(task.render(sample, words))
    text.plain = "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text.plain)
    return text


def _verdicts(found: SeenStep) -> list[str]:
    """Return lines about the rows, the digest and the replay."""
    record, lines = found.record, [f"rows: {found.changed}"] if found.changed else []
    mine = f"digest {found.chosen.digest}"
    if record is None:
        lines.append(f"{mine} is what the run will record: it has not recorded this step")
    elif record.get("data") == found.chosen.digest:
        values = f"loss {_number(record['loss'])}, gradient norm {_number(record.get('grad_norm'))}"
        lines.append(f"{mine} equals the run's record ({values}, lr {_number(record.get('lr'))})")
    else:
        why = found.changed or "the recipe, or the launcher, is another one than when the step was trained"
        lines.append(f"{mine} differs from the run's record {record.get('data')}: {one_line(why)}")
    if found.left_out:
        lines.append("the step is left out: it updates nothing, since training went back after a spike")
    return [*map(one_line, lines), *_replay_verdict(found)]


def _replay_verdict(found: SeenStep) -> list[str]:
    replayed, record = found.replayed, found.record
    if replayed is None:
        return []
    begin = f"from the checkpoint of step {replayed.start}" if replayed.start else "from the first step"
    values = f"loss {_number(replayed.loss)}, gradient norm {_number(replayed.grad_norm)}"
    line = f"replayed on one CPU process {begin}: {values}"
    if record is None:
        return [line]
    off, allowed = found.replay_difference, TOLERANCE[found.precision][1]
    if off == 0:
        return [f"{line}: equal to the record, to the last bit"]
    verdict = "equal to rounding" if off <= allowed else "differs from the record"
    return [f"{line}: {verdict} ({off:.0e} off, relatively; {found.precision} may differ by {allowed:.0e})"]


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float | int) and math.isfinite(value) else "none"


def _as_json(found: SeenStep, limit: int) -> JsonObject:
    chosen, (task, words) = found.chosen, _decoder(found.data)
    record, replayed = found.record or {}, found.replayed
    recorded = {key: record.get(key) for key in ("loss", "grad_norm", "lr", "data")} if found.record else None
    again = None if replayed is None else {**vars(replayed), "difference": found.replay_difference}
    return {
        "run": str(found.data.folder.path), "step": chosen.step, "steps": chosen.steps, "digest": chosen.digest,
        "recorded": recorded, "same": found.same, "left_out": found.left_out, "rows": found.changed or None,
        "ranks": found.ranks or None, "replay": _finite(again),
        "samples": [_sample_json(found, place, task, words) for place in range(min(limit, len(chosen.ids)))],
    }  # fmt: skip


def _finite(values: JsonObject | None) -> JsonObject | None:
    if values is None:
        return None
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _sample_json(found: SeenStep, place: int, task: Task, words: "PreTrainedTokenizerBase | None") -> JsonObject:
    chosen = found.chosen
    id, sample = int(chosen.ids[place]), chosen.samples[place]
    row = found.rows.get(place)
    return {
        "place": place, "id": id, "epoch": int(chosen.epochs[place]), "tokens": int(chosen.lengths[place]),
        "documents": [vars(part) for part in found.documents.get(id, ())],
        "text": _rendered(task, sample, words).plain, **_targets(found.data, sample),
        **({} if row is None else {"row": row[0], "row_start": row[1]}),
    }  # fmt: skip


def _targets(data: RunData, sample: Sample) -> JsonObject:
    """Return the masked positions of a sample, with the tokens' ids before and after masking, or its label."""
    labels = np.asarray(sample["labels"]) if "labels" in sample else None
    if labels is None:
        return {}
    if data.recipe.inner_task.kind == "mlm":
        at = np.flatnonzero(labels != IGNORE).tolist()
        masked = [{"position": n, "token": int(labels[n]), "input": int(sample["input_ids"][n])} for n in at]
        return {"masked": masked}
    names = data.facts.labels
    if names and labels.size == 1 and 0 <= int(labels.item()) < len(names):
        return {"label": names[int(labels.item())]}
    return {"labels": labels.tolist()}
