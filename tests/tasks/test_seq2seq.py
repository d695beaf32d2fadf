"""From one text to another: what the decoder is given, generated texts, and ROUGE by hand."""

import numpy as np
import pytest
import torch
from tasks.measuring import outputs

from launcher.config.errors import UserError
from launcher.models import config
from launcher.plan.model_requirements import ModelRequirements
from launcher.prepare.row_batches import batch_of
from launcher.tasks import IGNORE, FeatureContext, _metrics, causal_lm
from launcher.tasks.seq2seq import Config, Task
from launcher.train.data_loader import tensors

ROWS = [{"text": "the rank sends", "target": "a step"}, {"text": "every node", "target": "the loss counts every step"}]


def table(encoder, rows, length=16, **keys):
    (made,) = Task.features(Config(**keys), [batch_of(rows)], FeatureContext({}, length, "data.train", encoder))
    return made.table


@pytest.fixture
def task(facts_of, words):
    return Task(Config(generate={"max_new_tokens": 5}), facts_of(end_token_id=words.sep_token_id))


def samples_of(task, made):
    rows = [{k: np.array(v) if isinstance(v, list) else v for k, v in row.items()} for row in made.to_pylist()]
    return task.samples(rows, [0] * len(rows), list(range(len(rows))), None)


def test_both_texts_are_encoded_and_cut_and_count(encoder, words):
    rows = [{"text": "the " * 30, "target": "a step " * 30}, ROWS[0]]
    made = table(encoder, rows, prefix="every ", max_target_length=8).to_pylist()
    assert made[0]["input_ids"] == words("every " + "the " * 30, truncation=True, max_length=16)["input_ids"]
    assert made[0]["target"] == words("a step " * 30, truncation=True, max_length=8)["input_ids"]
    assert [row["length"] for row in made] == [len(row["input_ids"]) + len(row["target"]) for row in made]


def test_rows_without_a_target_weigh_nothing(encoder, task):
    (sample,) = samples_of(task, table(encoder, [{"text": "the rank"}]))
    assert sample["labels"].tolist() == [IGNORE]
    assert task.weight(sample) == 0


def test_the_loss_is_that_of_transformers_for_the_same_labels(encoder, task, tiny):
    """Which shifts the labels itself, and divides."""
    model = tiny(task)
    model.config.decoder_start_token_id = 7
    batch = tensors(task.collate(samples_of(task, table(encoder, ROWS))))
    task.prepare_model(model, batch)
    loss, weight = task.loss(model, batch)
    with torch.no_grad():
        known = model(**batch["inputs"], labels=batch["labels"].view(2, -1)).loss
    assert float(loss.detach()) / float(weight) == pytest.approx(float(known), rel=1e-9)


def test_targets_that_are_all_empty_weigh_nothing(task, tiny):
    """As a tokenizer without special tokens makes of an empty text."""
    model = tiny(task)
    samples = [{"input_ids": np.arange(5, 9), "labels": np.array([], dtype=np.int64)}] * 2
    batch = tensors(task.collate(samples))
    task.prepare_model(model, batch)
    loss, weight = task.loss(model, batch)
    assert (float(loss.detach()), weight) == (0.0, 0.0)


def test_a_model_without_a_decoder_is_refused(task, tiny, facts_of):
    model = tiny(causal_lm.Task(causal_lm.Config(), facts_of()))
    with pytest.raises(UserError, match=r"^model: BertLMHeadModel is no encoder with a decoder \(take t5 or bart\)$"):
        task.prepare_model(model, {})


def test_generated_texts_do_not_depend_on_other_samples(encoder, task, tiny):
    model = tiny(task).float()
    made = samples_of(task, table(encoder, ROWS))
    batch = tensors(task.collate(made))
    task.prepare_model(model, batch)
    together = task.generate(model, batch)
    alone = [task.generate(model, tensors(task.collate([sample])))[0] for sample in made]
    assert [one.tolist() for one in together] == [one.tolist() for one in alone]
    assert all(len(one) <= 5 and task.facts.end_token_id not in one for one in together)


def test_generated_texts_are_predicted_and_compared_with_their_targets(encoder, task, tiny, words):
    model, made = tiny(task), samples_of(task, table(encoder, ROWS))
    found = outputs(task, model, [[*made, task.zero_weight(made[0])]])
    found["generated"] = [words(text, add_special_tokens=False)["input_ids"] for text in ("a step", "the loss", "a")]
    assert [one["target"] for one in task.predictions(found, words)] == ["a step", "the loss", "a"]
    scores = task.generation_metrics(found, words)
    assert scores["exact_match"] == 0.5
    assert scores["rouge1"] == scores["rougeL"] == pytest.approx((1 + 2 * 2 / 7) / 2)


def test_rouge_by_hand():
    """Lin (2004), 3.2: of "police killed the gunman" and these, 3/4 and 1/2 by the longest common subsequence."""
    truth = "police killed the gunman"
    assert _metrics.rouge_l(truth, "Police kill the gunman") == 0.75
    assert _metrics.rouge_l(truth, "the gunman kill police") == 0.5
    assert _metrics.rouge1(truth, "the gunman kill police") == 0.75
    assert _metrics.rouge1(truth, "") == 0.0


def test_a_causal_model_continues_prompts_of_any_length(facts_of, words):
    facts = facts_of(end_token_id=words.sep_token_id)
    task = causal_lm.Task(causal_lm.Config(generate={"max_new_tokens": 4}), facts)
    made = config.Config(type="gpt2", n_embd=16, n_layer=2, n_head=2, dropout=0.0, initializer_range=0.5)
    wanted = ModelRequirements(task.auto_class, task.model_options(), facts.vocab_size, facts.pad_token_id, 32)
    model = config.Model(made).build(wanted)[0].eval()
    prompts = [[1, 9, 8, 7, 30], [1, 12]]
    samples = task.samples([{"input_ids": np.array([*p, facts.end_token_id])} for p in prompts], [0, 0], [0, 1], None)
    made = task.generate(model, tensors(task.collate(samples)))
    for prompt, more in zip(prompts, made, strict=True):
        ids = list(prompt)
        for token in more:
            with torch.no_grad():
                assert int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(int(token))
