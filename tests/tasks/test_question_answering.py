"""Question answering: windows, answers read from them, and SQuAD's scores by hand."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from tasks.measuring import measured, outputs

from launcher.config.errors import UserError
from launcher.prepare.row_batches import batch_of
from launcher.tasks import IGNORE, FeatureContext, _metrics
from launcher.tasks.question_answering import Config, Task

CONTEXT = "the head gives a batch, the model takes; every step counts the order of one layer and the field of it"
QUESTION = "order takes"


def table(encoder, rows, length=16, **keys):
    given = Config(**keys), [batch_of(rows)], FeatureContext({}, length, "data.train", encoder)
    return pa.concat_tables([made.table for made in Task.features(*given)])


def answered(text, context=CONTEXT, question=QUESTION):
    found = {"text": [text], "answer_start": [context.index(text)]} if text else {"text": [], "answer_start": []}
    return {"question": question, "context": context, "answers": found}


def samples_of(task, made):
    rows = [{k: np.array(v) if isinstance(v, list) else v for k, v in row.items()} for row in made.to_pylist()]
    return task.samples(rows, [0] * len(rows), list(range(len(rows))), None)


@pytest.mark.parametrize("stride", [None, 0, 3])
def test_windows_are_those_of_tokenizers(encoder, words, stride):
    made = table(encoder, [answered("the model")], stride=stride)
    asked = len(words(QUESTION, add_special_tokens=False)["input_ids"])
    known = words(
        QUESTION, CONTEXT, truncation="only_second", max_length=16, return_overflowing_tokens=True,
        stride=min(4, (13 - asked) // 2) if stride is None else stride,
    )  # fmt: skip
    assert made["input_ids"].to_pylist() == known["input_ids"]
    assert made["token_type_ids"].to_pylist() == known["token_type_ids"]
    assert len(set(made["example"].to_pylist())) == 1


def test_the_label_is_the_answer_in_the_windows_that_hold_it_and_the_first_token_in_others(encoder):
    made = table(encoder, [answered("the model"), answered("")], stride=3).to_pylist()
    held = 0
    for window in made:
        spans = np.array(window["spans"]).reshape(-1, 2)
        if window["start"]:
            held += 1
            assert window["text"][spans[window["start"], 0] : spans[window["end"], 1]] == "the model"
        else:
            assert window["end"] == 0
            assert window["answers"] == [] or "the model" not in window["text"]
    assert 1 <= held < len(made) / 2


def test_rows_without_answers_weigh_nothing(encoder, facts_of):
    task = Task(Config(), facts_of())
    made = table(encoder, [{"question": QUESTION, "context": CONTEXT}])
    assert {task.weight(sample) for sample in samples_of(task, made)} == {0.0}
    assert set(made["start"].to_pylist()) == {IGNORE}


def test_a_long_question_leaves_half_of_the_room_to_the_context(encoder):
    made = table(encoder, [answered("the model", question="the " * 40)])
    spans = np.array(made["spans"][0].as_py()).reshape(-1, 2)
    assert (spans[:, 0] >= 0).sum() == 16 - 3 - 6


def test_a_stride_without_room_is_reported(encoder):
    what = r"^task\.stride: 7 of 16 tokens: a question of 6 tokens leaves 7 for a window of its context "
    with pytest.raises(UserError, match=what):
        table(encoder, [answered("the model", question="the " * 6)], stride=7)


class Pointing(torch.nn.Module):
    """Scores by the characters of tokens: the first and the last token of what is to be said, where a window has it."""

    def __init__(self, words, first, last, none=1.0):
        super().__init__()
        ids = words.convert_tokens_to_ids([first, last])
        self.first, self.last, self.none = ids[0], ids[1], none

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        sides = [(input_ids == one).double() * 3 * token_type_ids for one in (self.first, self.last)]
        for side in sides:
            side[:, 0] = self.none
        return SimpleNamespace(start_logits=sides[0], end_logits=sides[1])


def test_the_answer_is_the_best_of_all_windows_and_its_characters_are_those_of_the_context(encoder, words, facts_of):
    task = Task(Config(no_answer=True), facts_of())
    made = samples_of(task, table(encoder, [answered("model takes"), answered("")]))
    model = Pointing(words, "model", "takes")
    found = measured(task, model, [made[:3], made[3:], [task.zero_weight(made[0])]])
    assert (found["exact_match"], found["f1"]) == (0.5, 0.5)
    assert found == pytest.approx(measured(task, model, [made[::-1]]))
    told = task.predictions(outputs(task, model, [made[: len(made) // 2]]), None)
    assert task.merge_predictions(told) == {"answer": "model takes", "score": 6.0, "no_answer_score": 2.0}
    sceptic = Pointing(words, "model", "takes", none=4.0)
    assert measured(task, sceptic, [made])["exact_match"] == 0.5
    assert task.merge_predictions(task.predictions(outputs(task, sceptic, [made]), None))["answer"] == ""


def test_no_answer_is_longer_than_allowed(encoder, words, facts_of):
    task = Task(Config(max_answer_length=1), facts_of())
    made = samples_of(task, table(encoder, [answered("model takes")]))
    told = task.predictions(outputs(task, Pointing(words, "model", "takes"), [made]), None)
    assert task.merge_predictions(told)["answer"] in ("model", "takes")


def test_padding_is_no_choice(encoder, words, facts_of):
    """A window alone has the loss that it has beside a longer one."""
    task, model = Task(Config(), facts_of()), Pointing(words, "model", "takes")
    made = samples_of(task, table(encoder, [answered("model takes")]))
    short, long = min(made, key=lambda s: len(s["input_ids"])), max(made, key=lambda s: len(s["input_ids"]))
    assert len(short["input_ids"]) < len(long["input_ids"])
    alone = measured(task, model, [[short]])["loss"]
    pair = outputs(task, model, [[short, long]])["loss"]
    assert pair[0] == pytest.approx(alone, rel=1e-12)


def test_the_loss_is_half_of_both_entropies(encoder, words, facts_of):
    task = Task(Config(), facts_of())
    made = samples_of(task, table(encoder, [answered("model takes")]))
    (held,) = [s for s in made if s["labels"][0]][:1]
    places = len(held["input_ids"])
    entropy = np.log(np.exp(3) + np.exp(1) + (places - 2)) - 3
    assert measured(task, Pointing(words, "model", "takes"), [[held]])["loss"] == pytest.approx(entropy)


# SQuAD's definitions


def test_answers_are_compared_without_case_marks_and_articles():
    assert _metrics.squad_exact_match("The  Model, takes.", "model takes") == 1.0
    assert _metrics.squad_exact_match("a theme", "theme") == 1.0
    assert _metrics.squad_exact_match("them", "the m") == 0.0


def test_f1_is_of_shared_words():
    assert _metrics.squad_f1("red green blue", "red blue blue") == pytest.approx(2 / 3)
    assert _metrics.squad_f1("red", "blue") == 0.0
    assert _metrics.squad_f1("", "the") == 1.0
    assert _metrics.squad_f1("", "word") == 0.0


def test_the_best_true_answer_counts_and_without_any_nothing_is_right():
    assert _metrics.squad_best(_metrics.squad_f1, ["red", "red green"], "red green") == 1.0
    assert _metrics.squad_best(_metrics.squad_exact_match, ["the"], "") == 1.0
    assert _metrics.squad_best(_metrics.squad_exact_match, [], "red") == 0.0
