"""Token classification: which token bears a word's label, and scores of entities by hand."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks.measuring import measured, outputs

from launcher.config.errors import UserError
from launcher.contract.random import Draw, Stream
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.tasks import IGNORE, FeatureContext, _tag_metrics
from launcher.tasks.token_classification import Config, Task

LABELS = ["O", "B-LOC", "B-PER", "I-PER"]


def features(encoder, words, labels=None, length=16, **keys):
    columns = {"words": pa.array(words, pa.list_(pa.string()))}
    if labels is not None:
        columns["labels"] = pa.array(labels, pa.list_(pa.string()))
    batch = pa.RecordBatch.from_pydict(columns)
    (made,) = Task.features(Config(**keys), [batch], FeatureContext({"labels": LABELS}, length, "data.train", encoder))
    return made


def test_labels_are_in_order_with_o_first():
    assert Task.survey(Config(), {"labels": {"I-PER", "O", "B-PER", "B-LOC"}})["labels"] == LABELS


def test_one_label_is_refused():
    with pytest.raises(UserError, match=r"^data\.train\.labels: 1 label in the training data: .* two or more"):
        Task.survey(Config(), {"labels": {"O"}})


def test_an_unknown_label_is_reported_with_its_key(encoder):
    with pytest.raises(UserError, match=r"^data\.train\.labels: 'B-PRE' stands in .* \(did you mean B-PER\?\)"):
        features(encoder, [["the"]], [["B-PRE"]])


def test_tokens_are_those_of_tokenizers_for_words_and_the_first_of_each_is_labelled(encoder, words):
    row = ["the", "modelstep", "", "step"]
    made = features(encoder, [row], [["O", "B-PER", "O", "I-PER"]]).table.to_pylist()[0]
    known = words(row, is_split_into_words=True)
    assert made["input_ids"] == known["input_ids"]
    numbers = known.word_ids()
    first = [n for n, w in enumerate(numbers) if w is not None and w != numbers[n - 1]]
    assert [w for w in made["words"] if w >= 0] == [0, 1, 3] == [numbers[n] for n in first]
    assert [made["labels"][n] for n in first] == [0, 2, 3]
    assert sum(label != IGNORE for label in made["labels"]) == 3


@pytest.mark.parametrize("label_all", [False, True])
def test_an_excluded_word_is_so_with_all_its_tokens(encoder, label_all):
    words, labels = [["modelstep", "lossloss"]], [[None, "B-LOC"]]
    made = features(encoder, words, labels, label_all=label_all).table.to_pylist()[0]
    assert (made["labels"].count(1) > 1) == label_all
    assert set(made["labels"]) == {IGNORE, 1}


def test_the_other_tokens_of_a_word_may_learn_its_inside(encoder):
    made = features(encoder, [["modelstep", "lossloss"]], [["B-PER", "B-LOC"]], label_all=True).table.to_pylist()[0]
    seen = list(zip(made["words"], made["labels"], strict=True))[1:-1]
    first = [label for word, label in seen if word >= 0]
    rest = {label for word, label in seen if word < 0}
    assert first == [2, 1]
    assert rest == {3, 1}  # there is no I-LOC


def test_a_byte_tokenizer_finds_words_by_spaces(endless):
    """As with add_prefix_space: each word has one before it."""
    made = features(endless, [["the", "step"]], [["O", "B-PER"]]).table.to_pylist()[0]
    assert endless.backend.decode(made["input_ids"]) == " the step"


def test_long_rows_are_cut_and_those_without_a_token_left_out(encoder):
    made = features(encoder, [["the"] * 40, [], [""], ["a"]], [["O"] * 40, [], ["O"], ["B-PER"]])
    assert made.table["length"].to_pylist() == [16, 3]
    assert made.empty == 2
    assert [sum(label != IGNORE for label in row) for row in made.table["labels"].to_pylist()] == [14, 1]


def test_rows_without_labels_weigh_nothing(encoder, facts_of):
    made = features(encoder, [["the", "step"]]).table.to_pylist()[0]
    task = Task(Config(), facts_of(labels=LABELS))
    (sample,) = task.samples([{k: np.array(v) for k, v in made.items()}], [0], [0], Draw(0, Stream.MASK))
    assert task.weight(sample) == 0
    assert [w for w in sample["words"] if w >= 0] == [0, 1]


class ByToken(torch.nn.Module):
    """Each token says the label of its own number."""

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=torch.nn.functional.one_hot(input_ids % 4, 4).double() * 5)


def sample(said, true):
    ids, labels = np.array([0, *said, 0]), np.array([IGNORE, *true, IGNORE])
    return {"input_ids": ids, "labels": labels, "words": np.array([-1, *range(len(said)), -1])}


# truth: PER PER(2 words) LOC, LOC; said: PER, PER of one word, LOC, PER
SAMPLES = [sample([2, 0, 2, 0, 1], [2, 0, 2, 3, 1]), sample([2], [1])]


def test_metrics_are_those_of_entities_by_hand(facts_of):
    task = Task(Config(), facts_of(labels=LABELS))
    found = measured(task, ByToken(), [SAMPLES[:1], SAMPLES[1:], [task.zero_weight(SAMPLES[0])]])
    assert found["accuracy"] == 4 / 6
    assert (found["precision"], found["recall"], found["f1"]) == (2 / 4, 2 / 4, 0.5)
    assert (found["precision/PER"], found["recall/PER"]) == (1 / 3, 1 / 2)
    assert (found["precision/LOC"], found["recall/LOC"]) == (1.0, 1 / 2)
    right = np.log(np.exp(5) + 3)
    assert found["loss"] == pytest.approx((4 * (right - 5) + 2 * right) / 6)
    assert task.report(outputs(task, ByToken(), [SAMPLES]))["classes"]["LOC"]["support"] == 2.0


def test_an_inside_after_nothing_begins_an_entity_as_in_conlleval():
    scores = _tag_metrics.scores([["O", "I-PER"]], [["O", "B-PER"]], LABELS)
    assert scores.total["f1"] == 1.0


def test_tags_of_no_scheme_are_scored_one_by_one():
    scores = _tag_metrics.scores([["NOUN", "VERB", "NOUN"]], [["NOUN", "NOUN", "NOUN"]], ["NOUN", "VERB", "X"])
    assert scores.classes["NOUN"] == {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2.0}
    assert scores.total["macro_recall"] == 0.5
    assert "f1" not in scores.total
    assert scores.classes["X"]["f1"] == 0.0


@pytest.mark.parametrize("name", ["accuracy", "micro avg", "macro avg", "weighted avg"])
def test_a_label_may_be_called_like_a_score(name):
    tags = _tag_metrics.scores([[name, "X", name]], [[name, name, name]], [name, "X"])
    entities = _tag_metrics.scores([[f"B-{name}", "B-X"]], [[f"B-{name}", f"B-{name}"]], ["O", f"B-{name}", "B-X"])
    assert tags.classes[name] == {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2.0}
    assert tags.total["macro_recall"] == 0.5
    assert entities.classes[name] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1.0}
    assert entities.classes["X"]["support"] == 1.0
    assert entities.total == {"precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_no_entity_anywhere_is_0():
    assert _tag_metrics.scores([["O"]], [["O"]], LABELS).total == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_each_word_has_a_predicted_tag(facts_of):
    task = Task(Config(), facts_of(labels=LABELS))
    one = {**SAMPLES[0], "words": np.array([-1, 0, 1, 3, -1, 4, -1])}
    assert task.predictions(outputs(task, ByToken(), [[one]]), None) == [
        {"tags": ["B-PER", "O", None, "B-PER", "B-LOC"]}
    ]


SPANS = st.lists(st.tuples(st.sampled_from(["PER", "LOC"]), st.integers(1, 4), st.integers(0, 3)), max_size=5)


def tagged(spans, letters):
    """Entities of (type, words, words outside after it) as tags; letters: of a first, an inner, a last and a single."""
    first, inner, last, single = letters
    tags = ["O"]
    for kind, words, outside in spans:
        one = [single] if words == 1 else [first, *[inner] * (words - 2), last]
        tags += [f"{letter}-{kind}" for letter in one] + ["O"] * outside
    return tags


@settings(deadline=None, max_examples=60)
@given(SPANS, SPANS, st.sampled_from(["BIES", "BILU", "BMES", "BMEW"]))
def test_every_scheme_gives_the_scores_of_iob(truth, said, letters):
    pairs = [(tagged(side, "BIIB"), tagged(side, letters)) for side in (truth, said)]
    size = max(len(tags) for tags, _ in pairs)
    pairs = [tuple([*tags, *["O"] * (size - len(tags))] for tags in pair) for pair in pairs]
    labels = ["O", *(f"{letter}-{kind}" for letter in "BI" for kind in ("LOC", "PER"))]
    others = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("LOC", "PER"))]
    (plain, other), (plain_said, other_said) = pairs
    found = _tag_metrics.scores([other], [other_said], others)
    assert found == _tag_metrics.scores([plain], [plain_said], labels)


@pytest.mark.parametrize(
    ("labels", "name", "types"),
    [
        (["O", "B-PER", "I-PER"], "IOB", ["PER"]),
        (["O", "I-PER", "I-LOC"], "IO", ["LOC", "PER"]),
        (["O", "I-PER", "E-PER"], "IOE", ["PER"]),
        (["O", "B-PER", "E-PER", "S-PER"], "BIOES", ["PER"]),
        (["O", "B-PER", "I-PER", "L-PER", "U-PER"], "BILOU", ["PER"]),
        (["O", "U-PER"], "BILOU", ["PER"]),
        (["O", "B-PER", "M-PER", "E-PER", "S-LOC"], "BMES", ["LOC", "PER"]),
        (["O", "B-PER", "M-PER", "E-PER", "W-PER"], "BMEWO", ["PER"]),
        (["O", "B_PER", "I_PER"], "IOB", ["PER"]),
        (["B", "I", "O"], "IOB", ["_"]),
        (["B-NP", "I-NP", "B-geo-loc"], "IOB", ["NP", "geo-loc"]),
    ],
)
def test_schemes_are_recognised(facts_of, labels, name, types):
    known = _tag_metrics.scheme(labels)
    assert (known.name, known.types) == (name, types)
    assert _tag_metrics.total_names(labels) == ("precision", "recall", "f1")
    told = Task.describe_labels(Config(), facts_of(labels=labels))
    assert told == f"{len(labels)} tags, read as {name}: f1 is over entities ({', '.join(types)})"
    whole = _tag_metrics.scores([labels], [labels], labels)
    assert whole.total["f1"] == 1.0
    assert set(whole.classes) == set(types)


@pytest.mark.parametrize(
    "labels",
    [["NOUN", "VERB"], ["0", "1"], ["O", "PER"], ["O", "B-PER", "X"], ["O", "B-X", "Z-X"], ["S", "O"],
     ["B-X", "L-X", "E-X"]],
)  # fmt: skip
def test_tags_of_no_scheme_have_no_f1(facts_of, labels):
    assert _tag_metrics.scheme(labels) is None
    task = Task(Config(), facts_of(labels=labels))
    assert set(task.directions()) == {"loss", "accuracy", "macro_precision", "macro_recall", "macro_f1"}
    assert "of no entity scheme: macro_f1" in Task.describe_labels(Config(), task.facts)


def evaluated(encoder, facts_of, words, labels, length):
    """The outputs of rows as an evaluation has them, by a model that always says O."""
    made = features(encoder, words, labels, length)
    table = made.table.combine_chunks()
    rows = PreparedSamples.of(table).rows(range(table.num_rows))
    task = Task(Config(), facts_of(labels=LABELS))
    samples = task.samples(rows, [0] * len(rows), range(len(rows)), Draw(0, Stream.EVALUATE))
    return made, task, samples


class Perfect(torch.nn.Module):
    """Says what it is asked for, at the tokens that it sees."""

    def __init__(self, labels):
        super().__init__()
        self.labels = torch.as_tensor(labels)

    def forward(self, input_ids, attention_mask=None):
        shown = self.labels.view(input_ids.shape).clamp(min=0)
        return SimpleNamespace(logits=torch.nn.functional.one_hot(shown, 4).double() * 5)


def test_truncated_entities_count_as_missed(encoder, facts_of):
    words = [["the"] * 10, ["the", "step"], ["a", "", "the"]]
    labels = [["B-PER"] + ["O"] * 6 + ["B-PER", "I-PER", "B-LOC"], ["O", "B-LOC"], ["O", "B-PER", "O"]]
    made, task, samples = evaluated(encoder, facts_of, words, labels, 8)
    assert {name: count.tolist() for name, count in made.cut.items()} == {
        "rows": [1, 0, 0], "words": [4, 0, 0], "labels": [3, 0, 0],
    }  # fmt: skip
    batch = task.collate(samples)
    found = outputs(task, Perfect(batch["labels"]), [samples])
    metrics = task.metrics(found)
    assert (metrics["precision"], metrics["recall"]) == (1.0, 2 / 5)
    assert task.report(found)["classes"]["PER"]["support"] == 3.0
    assert [len(one["tags"]) for one in task.predictions(found, None)] == [10, 2, 3]
    assert task.predictions(found, None)[0]["tags"][6:] == [None] * 4
    assert task.predictions(found, None)[2]["tags"] == ["O", None, "O"]


def test_training_samples_do_not_contain_truncated_labels(encoder, facts_of):
    made = features(encoder, [["the"] * 10], [["O"] * 10], 8).table
    task = Task(Config(), facts_of(labels=LABELS))
    rows = PreparedSamples.of(made).rows([0])
    (sample,) = task.samples(rows, [0], [0], Draw(0, Stream.MASK))
    assert set(sample) == {"input_ids", "labels", "words"}


def test_data_of_an_earlier_version_is_evaluated_as_before(encoder, facts_of):
    made = features(encoder, [["the"] * 10], [["O"] * 10], 8).table.drop_columns("row_labels")
    task = Task(Config(), facts_of(labels=LABELS))
    samples = task.samples(PreparedSamples.of(made).rows([0]), [0], [0], Draw(0, Stream.EVALUATE))
    assert len(task.predictions(outputs(task, ByToken(), [samples]), None)[0]["tags"]) == 6
