"""Prediction of rows with a trained model, in this process."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from launcher.config.errors import Problem, UserError
from launcher.config.requested_columns import KEPT, KeptColumn
from launcher.data import BadRow, Row
from launcher.tools.prediction import prediction_lines
from launcher.tools.prediction.input_rows import KEY
from launcher.tools.prediction.mask_filling import DEFAULT, MaskFiller
from launcher.tools.prediction.prediction_lines import Prediction
from launcher.tools.trained_model import TrainedModel

if TYPE_CHECKING:
    import pyarrow as pa

    from launcher.prepare.prepared_samples import PreparedSamples
    from launcher.tasks import Batch
    from launcher.train.evaluation import Parts

_log = logging.getLogger(__name__)
_INPUTS_CUT = {"rows", "questions"}
"""Keys of launcher.tasks.Features.cut that concern inputs."""


class _Encoded(NamedTuple):
    """Rows as samples. `counts`: number of samples of each row; `cut`: whether each row was truncated."""

    table: "pa.Table | None"
    counts: list[int]
    cut: list[bool]


class Predictor:
    """A trained model that predicts rows, on the device of this process.

    `keep`: columns of a row to put into its line. `top_k`: number of answers to list with their probabilities.
    `truncated`: number of rows so far that were cut to the model's length. Raises UserError for `top_k` with a task
    that does not rank answers.
    """

    def __init__(self, trained: TrainedModel, keep: Sequence[KeptColumn] = (), top_k: int | None = None):
        from launcher.distributed import process_group
        from launcher.prepare import tokenizer
        from launcher.prepare.encode import Encoder

        self._trained, self._task, self._keep, self._top_k = trained, trained.task(), keep, top_k
        self._process = process_group.connect(process_group.RankInfo())
        trained.model.to(self._process.device)
        tokenized, folder = self._task.tokenized, trained.folder.tokenizer
        self._encoder = Encoder(folder) if tokenized else None
        self._tokenizer = tokenizer.load(str(folder), "tokenizer") if tokenized else None
        self._filler = self._mask_filler()
        if top_k is not None and self._filler is None and not self._task.has_top_predictions:
            kind = trained.recipe.inner_task.kind
            raise UserError(Problem("--top-k", f"task {kind} does not choose among classes or tokens (leave it out)"))
        self.truncated = 0
        self._equal_lengths: bool | None = None  # known when the model has been prepared
        self._padding_free: bool | None = None  # known after a test, when there are several micro-batches
        self._names = set(prediction_lines.RESERVED)  # keys of all predictions so far
        self._samples_done = 0  # ids of samples continue across chunks

    def _mask_filler(self) -> MaskFiller | None:
        """Return the filler of masks; None: the model is not a masked language model."""
        tokenizer = self._tokenizer if self._task.auto_class == "AutoModelForMaskedLM" else None
        if tokenizer is None or tokenizer.mask_token is None:
            return None
        recipe = self._trained.recipe
        return MaskFiller(
            self._trained.model, tokenizer, recipe.data.max_length, self._top_k or DEFAULT,
            recipe.train.precision, self._process.device,
        )  # fmt: skip

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a row needs, without targets."""
        return tuple(column for column in self._task.columns if column not in self._task.target_columns)

    def predict(self, chunk: Sequence[Row | BadRow]) -> list[Prediction]:
        """Return a line for each row: the kept columns and the prediction, or the `error` of a bad row. A line has
        `truncated` if the model did not get the whole row."""
        good = [row for row in chunk if not isinstance(row, BadRow)]
        inputs = [{name: value for name, value in row.items() if name != KEPT} for row in good]
        predictions = self._predict_or_fill(inputs) if inputs else []
        self.truncated += sum("truncated" in one for one in predictions)
        self._names.update(name for one in predictions for name in one)
        lines = (
            prediction_lines.joined(prediction_lines.selected(row, self._keep), one, self._names)
            for row, one in zip(good, predictions, strict=True)
        )
        return [{"error": str(row)} if isinstance(row, BadRow) else next(lines) for row in chunk]

    def _predict_or_fill(self, rows: Sequence[Row]) -> list[Prediction]:
        """Return the fillings of rows whose text has a mask, and the predictions of all other rows, in their order."""
        if self._filler is None:
            return self._predict_rows(rows)
        masked = [self._filler.has_mask(row["text"]) for row in rows]
        filled = iter(self._filler.fill([row["text"] for row, one in zip(rows, masked, strict=True) if one]))
        others = [row for row, one in zip(rows, masked, strict=True) if not one]
        predicted = iter(self._predict_rows(others) if others else [])
        return [next(filled if one else predicted) for one in masked]

    def _predict_rows(self, rows: Sequence[Row]) -> list[Prediction]:
        """Return one prediction for each row, merged from those of its samples."""
        from launcher.prepare.prepared_samples import PreparedSamples

        encoded = self._encode(rows)
        predictions = iter(self._predict_samples(PreparedSamples.of(encoded.table)) if sum(encoded.counts) else [])
        joined = [self._join([next(predictions) for _ in range(count)]) for count in encoded.counts]
        return [{**one, "truncated": True} if cut else one for one, cut in zip(joined, encoded.cut, strict=True)]

    def _encode(self, rows: Sequence[Row]) -> _Encoded:
        """Return the samples of rows, in their order. Rows are encoded together if each gives one sample."""
        from launcher.prepare.row_batches import batch_of

        if not self._trained.recipe.inner_task.joins_documents:  # such a task would join the rows
            table, empty, cut = self._encode_batch(batch_of(list(rows)))
            if table is not None and table.num_rows == len(rows) and not empty:
                return _Encoded(table, [1] * len(rows), cut)
        single = [self._encode_batch(batch_of([row])) for row in rows]
        counts = [0 if table is None else table.num_rows for table, *_ in single]
        return _Encoded(_concatenated([table for table, *_ in single]), counts, [any(cut) for *_, cut in single])

    def _encode_batch(self, batch: "pa.RecordBatch") -> "tuple[pa.Table | None, int, list[bool]]":
        """Return the samples of rows as a table, the number of rows without one, and whether each row is truncated.

        The table is None if there are no samples.
        """
        from launcher.prepare.feature_context import FeatureContext

        recipe, facts = self._trained.recipe, self._trained.facts
        survey = {"labels": facts.labels, "shape": list(facts.shape)}
        context = FeatureContext(survey, recipe.data.max_length, KEY, self._encoder)
        features = list(self._task.features(recipe.inner_task, [batch], context))
        cut = np.zeros(batch.num_rows, dtype=np.bool_)
        for one in features:
            for name in one.cut.keys() & _INPUTS_CUT:
                cut |= one.cut[name] > 0
        return _concatenated([one.table for one in features]), sum(one.empty for one in features), cut.tolist()

    def _predict_samples(self, samples: "PreparedSamples") -> list[Prediction]:
        """Return one prediction for each sample, with `scores` of the top answers if they were requested."""
        from launcher.train import evaluation
        from launcher.train.evaluation import Parts

        recipe, model, task = self._trained.recipe, self._trained.model, self._task
        parts = Parts(samples, task, recipe.seed, 0, 1, recipe.train.max_tokens, recipe.packed, self._samples_done)
        self._samples_done += len(samples)
        if self._equal_lengths is None:
            self._equal_lengths = self._attach(parts[0].batch)
        parts = self._without_padding(replace(parts, equal_lengths=self._equal_lengths))
        evaluated = evaluation.Generating(task, model) if recipe.inner_task.generates else task
        outputs = evaluation.outputs(model, evaluated, parts, self._process, recipe.train.precision)
        predictions: list[Prediction] = task.predictions(outputs, self._tokenizer)
        if self._top_k is None or self._filler is not None:
            return predictions
        ranked = task.top_predictions(outputs, self._top_k)
        return [{**one, "scores": scores} for one, scores in zip(predictions, ranked, strict=True)]

    def _without_padding(self, parts: "Parts") -> "Parts":
        """Return the micro-batches without padding if the model computes them so. One micro-batch alone is not worth
        the test."""
        from launcher.train import evaluation_rows

        recipe = self._trained.recipe
        if recipe.inner_task.generates or (self._padding_free is None and len(parts.pieces) == 1):
            return parts
        if self._padding_free is None:
            parts, notes = evaluation_rows.adapt(self._trained.model, self._task, parts, recipe.train, self._process)
            self._padding_free = parts.padding_free
            for note in notes:
                _log.debug(note)
            return parts
        return replace(parts, padding_free=True, joined=False) if self._padding_free else parts

    def _attach(self, batch: "Batch") -> bool:
        """Prepare the model for the task. Returns whether all samples of a micro-batch need the same length."""
        from launcher.plan import model_requirements
        from launcher.tasks import _model_probes
        from launcher.train import model_probe
        from launcher.train.data_loader import to

        trained, device = self._trained, self._process.device
        example, precision = to(batch, device), trained.recipe.train.precision
        with model_probe.reported(trained.model, trained.recipe.task.kind):
            model_probe.prepare(self._task, trained.model, example, precision, device)
        needs = model_requirements.of(trained.recipe, trained.facts)
        return not trained.recipe.packed and _model_probes.needs_equal_lengths(self._task, trained.model, needs)

    def _join(self, predictions: list[Prediction]) -> Prediction:
        """Return the prediction of a row from those of its samples; an `error` if there are none."""
        return self._task.merge_predictions(predictions) if predictions else {"error": "there is no token in it"}


def _concatenated(tables: "Sequence[pa.Table | None]") -> "pa.Table | None":
    import pyarrow as pa

    filled = [table for table in tables if table is not None and table.num_rows]
    return pa.concat_tables(filled).combine_chunks() if filled else None
