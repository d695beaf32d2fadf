"""Policy gradients against numbers worked out by hand, sampling against its distribution, and rewards that are none."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from tasks.measuring import measured, outputs

from launcher.config.errors import UserError
from launcher.contract.random import Draw, Stream
from launcher.tasks import _completion_sampling, _policy_gradient, _rewards, reward
from launcher.train.data_loader import tensors

KEYS = {"reward": "launcher.tasks._rewards:vowels", "completions": 3, "max_new_tokens": 4}


def test_the_baseline_of_a_completion_is_the_mean_of_the_others():
    found = _policy_gradient.leave_one_out(torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]]))
    assert torch.allclose(found, torch.tensor([[1 - 4.0, 2 - 3.5, 6 - 1.5], [0.0, 0.0, 0.0]]))


def test_the_loss_of_a_prompt_is_that_worked_out_by_hand():
    """Two completions of two tokens, of which the second ends after one."""
    logs, before = torch.tensor([[-1.0, -2.0], [-0.5, -9.0]]), torch.tensor([[-1.5, -2.0], [-0.1, -3.0]])
    there, rewards = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([1.0, 0.25])
    first = -0.75 * -3.0 + 0.1 * (0.5**2 / 2 + 0) / 2
    second = 0.75 * -0.5 + 0.1 * 0.4**2 / 2
    found = _policy_gradient.surrogate(logs, before, there, rewards, 0.1, 2)
    assert found.tolist() == pytest.approx([(first + second) / 2])


def test_k3_of_known_probabilities_has_the_divergence_for_its_mean():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    assert float((p * _policy_gradient.k3(p.log(), q.log())).sum()) == pytest.approx(
        float((p * (p / q).log()).sum()), rel=1e-6
    )
    assert (_policy_gradient.k3(p.log(), q.log()) >= 0).all()


def test_the_gradient_of_k2_has_that_of_the_divergence_for_its_mean():
    """Summed over every token that might have been sampled, by its probability."""
    logits, q = torch.tensor([0.3, -1.0, 0.8], requires_grad=True), torch.tensor([0.2, 0.2, 0.6]).log()
    logs = torch.log_softmax(logits, 0)
    (exact,) = torch.autograd.grad((logs.exp() * (logs - q)).sum(), logits, retain_graph=True)
    (found,) = torch.autograd.grad((logs.exp().detach() * (logs - q) ** 2 / 2).sum(), logits)
    assert torch.allclose(found, exact, atol=1e-6)


def test_a_token_is_the_one_at_which_the_distribution_passes_its_number():
    logs = torch.tensor([[0.5, 0.25, 0.0, 0.25]]).log().repeat(6, 1)
    draws = torch.tensor([0.0, 0.499, 0.501, 0.749, 0.751, 1 - 2**-32], dtype=torch.float64)
    assert _completion_sampling.pick(logs, draws).tolist() == [0, 0, 1, 1, 3, 3]


def test_sampled_tokens_are_distributed_as_the_model_says():
    shares = np.array([0.5, 0.2, 0.2, 0.06, 0.04])
    task = reward.Task(reward.Config(**{**KEYS, "completions": 50}), None)
    samples = task.samples([{"input_ids": np.ones(2)}] * 40, [3] * 40, range(40), Draw(1, Stream.MASK))
    draws = torch.from_numpy(np.stack([sample["draws"] for sample in samples])).flatten()
    found = _completion_sampling.pick(torch.tensor(shares).log().expand(len(draws), -1), draws)
    assert stats.chisquare(np.bincount(found, minlength=5), shares * len(draws)).pvalue > 1e-3
    assert len(set(draws.tolist())) == len(draws), "no two tokens share a number"


@pytest.fixture
def playing(facts_of, tiny):
    """Makes a task, a model it is attached to, and samples: prompts of 1 to 5 tokens."""

    def make(**keys):
        task = reward.Task(reward.Config(**{**KEYS, **keys}), facts_of(longest=8))
        rows = [{"input_ids": np.arange(20, 21 + n)} for n in range(5)]
        samples = task.samples(rows, [0] * 5, range(5), Draw(4, Stream.MASK))
        model = tiny(task, initializer_range=0.2)
        task.prepare_model(model, tensors(task.collate(samples[:1])))
        return task, model, samples

    return make


def test_a_completion_does_not_depend_on_its_batch(playing):
    task, model, samples = playing()
    together = outputs(task, model, [samples])
    alone = outputs(task, model, [[sample] for sample in samples])
    assert all(np.array_equal(*pair) for pair in zip(together["completions"], alone["completions"], strict=True))
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-9)
    assert len({tuple(ids.ravel()) for ids in together["completions"]}) == 5


def test_a_completion_ends_at_the_end_token_and_what_follows_does_not_count(playing):
    task, model, samples = playing(max_new_tokens=12, completions=8)
    found = np.concatenate(outputs(task, model, [samples])["completions"])
    assert (found[:, 0] >= 0).all()
    for ids in found:
        ended = np.flatnonzero(ids == task._ends[0])
        assert np.count_nonzero(ids >= 0) == (ended[0] + 1 if len(ended) else 12)
    assert (found == -1).any() and (found[:, -1] >= 0).any()


def test_the_reference_does_not_train(playing):
    task, model, samples = playing()
    assert measured(task, model, [samples])["kl"] == 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    assert measured(task, model, [samples])["kl"] > 0


def test_the_reported_reward_is_that_of_the_texts(playing, words):
    task, model, samples = playing()
    made = outputs(task, model, [samples])
    told = task.predictions(made, words)
    scores = [[_rewards.vowels("", text) for text in one["completions"]] for one in told]
    assert [one["rewards"] for one in told] == scores
    assert measured(task, model, [samples])["reward"] == pytest.approx(np.mean(scores))


def test_dropout_is_removed(facts_of, tiny):
    task = reward.Task(reward.Config(**KEYS), facts_of(longest=8))
    model = tiny(task, dropout=0.5)
    batch = tensors(task.collate(task.samples([{"input_ids": np.arange(5)}], [0], [0], Draw(1, Stream.MASK))))
    assert any("dropout is off" in note for note in task.prepare_model(model.train(), batch))
    assert model.training
    with torch.no_grad():
        assert float(task.loss(model, batch)[0]) == float(task.loss(model.eval(), batch)[0])


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("no_such_package.rewards:score", "no_such_package.rewards cannot be imported"),
        ("launcher.tasks._rewards:vowel", r"has no function vowel \(did you mean vowels\?"),
        ("vowels", "is no path to a function"),
    ],
)
def test_a_path_without_a_function_is_reported(path, told):
    with pytest.raises(ValidationError, match=told):
        reward.Config(reward=path)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (lambda: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda: math.nan, "gave nan, which is no finite number"),
        (lambda: "good", "raised ValueError: could not convert string to float: 'good'"),
        (lambda: None, "raised TypeError"),
    ],
)
def test_a_reward_that_is_no_number_is_reported_with_the_arguments(value, told):
    with pytest.raises(UserError, match=rf"task\.reward: mine:score\('once upon', 'a time'\) {told}"):
        _policy_gradient.reward(lambda prompt, completion: value(), "mine:score", "once upon", "a time")


def test_the_rewards_of_the_package():
    assert _rewards.vowels("", "Abe, 42!") == pytest.approx(2 / 3) and _rewards.vowels("", "42") == 0
    assert _rewards.the("", "The cat and the dog") == pytest.approx(2 / 5) and _rewards.the("", "") == 0


def test_a_model_that_is_too_short_for_a_completion_is_refused(facts_of, tiny):
    task = reward.Task(reward.Config(**{**KEYS, "max_new_tokens": 30}), facts_of(longest=8))
    batch = tensors(task.collate(task.samples([{"input_ids": np.arange(5)}], [0], [0], Draw(1, Stream.MASK))))
    with pytest.raises(UserError, match="prompts of 8 tokens and 30 more are too long for it"):
        task.prepare_model(tiny(task, max_position_embeddings=32), batch)
