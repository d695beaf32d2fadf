"""Windows for question answering: each consists of a question and a part of its context.

Consecutive parts overlap by `stride` tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from launcher.config.errors import Problem, UserError
from launcher.prepare.token_arrays import PairTemplate
from launcher.tasks import IGNORE, Features, _token_batches

if TYPE_CHECKING:
    from launcher.prepare.encode import Encoder

Answers = dict[str, list[Any]]
"""The answers of a question: `text` and `answer_start`, in characters."""


@dataclass(frozen=True)
class Window:
    """One sample.

    ids, types: token ids and token types; types are None if the tokenizer has none.
    label: first and last token of the answer; (0, 0) if it is not in the window, IGNORE if it is not known.
    text: the window's part of the context.
    spans: begin and end of each token in `text`, in characters, shape (tokens, 2); -1 outside the context.
    """

    ids: NDArray[np.uint32]
    types: NDArray[np.uint8] | None
    label: tuple[int, int]
    text: str
    spans: NDArray[np.int64]


def features(batch: pa.RecordBatch, first: int, encoder: "Encoder", length: int, stride: int | None) -> Features:
    """Return the windows of a batch of rows. first: the number of the batch's first row in the source. Raises UserError
    if a question leaves no room for its context."""
    questions, contexts = (batch.column(name).to_pylist() for name in ("question", "context"))
    answers: list[Answers | None] = [None] * len(questions)
    if "answers" in batch.schema.names:
        answers = batch.column("answers").to_pylist()
    distinct = list(dict.fromkeys(contexts))
    number = {context: n for n, context in enumerate(distinct)}
    question_tokens, _ = encoder.spans(questions)
    context_tokens, spans = encoder.spans(distinct)
    frame = encoder.frame()
    room = (length - len(frame)) // 2  # longer questions are truncated, contexts are divided into windows
    windows, examples, texts = list[Window](), list[int](), list[list[str]]()
    for n, (question, context, answer) in enumerate(zip(questions, contexts, answers, strict=True)):
        part = slice(*context_tokens.offsets[number[context] :][:2])
        tokens = question_tokens.ids[slice(*question_tokens.offsets[n:][:2])][:room]
        added = list(_windows(frame, tokens, context_tokens.ids[part], spans[part], context, answer, length, stride))
        windows += added
        examples += [_example_number(first + n, question, context)] * len(added)
        texts += [answer["text"] if answer else []] * len(added)
    cut = {"questions": _token_batches.cut_rows(question_tokens.lengths, room)["rows"]}
    return Features(_table(windows, examples, texts, encoder.vocab_size), cut=cut)


def _windows(
    frame: PairTemplate,
    question: NDArray[np.uint32],
    tokens: NDArray[np.uint32],
    spans: NDArray[np.int64],
    context: str,
    answer: Answers | None,
    length: int,
    stride: int | None,
) -> Iterator[Window]:
    room = length - len(frame) - len(question)
    if room < 1 or (stride or 0) >= room:
        what = f"a question of {len(question)} tokens leaves {room} for a window of its context"
        raise UserError(Problem("task.stride", f"{stride or 0} of {length} tokens: {what} (or raise data.max_length)"))
    step = room - (min(length // 4, room // 2) if stride is None else stride)
    offset = len(frame.special[0]) + len(question) + len(frame.special[1])
    for start in range(0, max(1, len(tokens) - room + step), step):
        part = spans[start : start + room]
        begin, end = (int(part[0, 0]), int(part[-1, 1])) if len(part) else (0, 0)
        padded = np.full((length, 2), -1, dtype=np.int64)[: len(frame) + len(question) + len(part)]
        padded[offset : offset + len(part)] = part - begin
        yield Window(
            ids=frame.around(question, tokens[start : start + room]),
            types=None if frame.types is None else frame.types_of(len(question), len(part)),
            label=(IGNORE, IGNORE) if answer is None else _label(part, answer, offset),
            text=context[begin:end],
            spans=padded,
        )


def _label(spans: NDArray[np.int64], answer: Answers, offset: int) -> tuple[int, int]:
    """Return the first and last token of the first answer; (0, 0) if it is not in the window."""
    if not answer["text"] or not answer["text"][0] or not len(spans):
        return 0, 0
    begin = answer["answer_start"][0]
    end = begin + len(answer["text"][0])
    if begin < spans[0, 0] or end > spans[-1, 1]:
        return 0, 0
    first = np.searchsorted(spans[:, 0], begin, side="right") - 1
    last = np.searchsorted(spans[:, 1], end, side="left")
    return offset + int(first), offset + int(last)


def _example_number(number: int, question: str, context: str) -> int:
    """Return a number that identifies the windows of one row. number: that of the row in its source."""
    return xxhash.xxh3_64_intdigest(f"{number} {len(question)} {question}{context}".encode()) >> 1


def _table(windows: Sequence[Window], examples: Sequence[int], answers: Sequence[list[str]], vocab: int) -> pa.Table:
    ids = [window.ids for window in windows]
    columns: dict[str, Any] = {
        "input_ids": _lists(ids, _token_batches.integer_type(vocab)),
        "length": pa.array([len(one) for one in ids], pa.int32()),
        "start": pa.array([window.label[0] for window in windows], pa.int64()),
        "end": pa.array([window.label[1] for window in windows], pa.int64()),
        "example": pa.array(examples, pa.int64()),
        "text": pa.array([window.text for window in windows], pa.large_string()),
        "spans": _lists([window.spans.ravel() for window in windows], pa.int32()),
        "answers": pa.array(answers, pa.list_(pa.string())),
    }
    if windows and windows[0].types is not None:
        columns["token_type_ids"] = _lists([window.types for window in windows], pa.uint8())
    return pa.table(columns)


def _lists(arrays: Sequence[Any], kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in arrays])]).astype(np.int32)
    flat = np.concatenate([*arrays, np.empty(0, dtype=np.int64)])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat).cast(kind))
