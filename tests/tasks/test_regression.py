"""Regression: numbers, their loss by hand, and what a missing one does."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from tasks.measuring import measured, outputs

from launcher.tasks import _metrics, regression
from launcher.train.data_loader import tensors

Task = regression.Task


@pytest.fixture
def task(facts_of):
    return Task(regression.Config(), facts_of())


class ByFirstToken(torch.nn.Module):
    """A number for each sample: the weight of its first token."""

    def __init__(self, values, dtype=torch.float64):
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor(values, dtype=dtype))

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.values[input_ids[:, :1]])


def sample(token, label):
    return {"input_ids": np.array([token, 0]), "labels": np.array([label])}


SAMPLES = [sample(0, 1.0), sample(1, 2.0), sample(2, 4.0)]
VALUES = [2.0, 2.0, 1.0]


def test_the_loss_is_the_sum_of_squared_errors(task):
    loss, weight = task.loss(ByFirstToken(VALUES), tensors(task.collate(SAMPLES)))
    assert (float(loss), weight) == (1.0 + 0.0 + 9.0, 3.0)


def test_errors_in_half_precision_are_squared_in_full(task):
    model = ByFirstToken([300.0, 0.0, 0.0], torch.float16)
    loss, _ = task.loss(model, tensors(task.collate([sample(0, -1.0)])))
    assert float(loss) == 301.0**2  # more than fp16 holds


def test_a_missing_number_weighs_nothing_and_reaches_no_gradient(task):
    model = ByFirstToken(VALUES)
    loss, weight = task.loss(
        model, tensors(task.collate([SAMPLES[0], task.zero_weight(SAMPLES[2]), sample(1, np.nan)]))
    )
    loss.backward()
    assert (float(loss), weight) == (1.0, 1.0)
    assert model.values.grad.tolist() == [2.0, 0.0, 0.0]


def test_metrics_are_those_computed_by_hand(task):
    found = measured(task, ByFirstToken(VALUES), [SAMPLES, [task.zero_weight(SAMPLES[0])]])
    assert found["loss"] == found["mse"] == pytest.approx(10 / 3)
    assert found["mae"] == pytest.approx(4 / 3)
    assert found["r2"] == pytest.approx(1 - 10 / (16 / 9 + 1 / 9 + 25 / 9))
    truth, said = np.array([1.0, 2.0, 4.0]), np.array(VALUES)
    covariance = ((truth - truth.mean()) * (said - said.mean())).mean()
    assert found["pearson"] == pytest.approx(covariance / truth.std() / said.std())


@pytest.mark.parametrize("samples", [[], SAMPLES[:1], [sample(0, 3.0), sample(1, 3.0)]])
def test_what_is_not_defined_is_0(task, samples):
    found = measured(task, ByFirstToken(VALUES), [samples or [task.zero_weight(SAMPLES[0])]])
    assert (found["r2"], found["pearson"]) == (0.0, 0.0)


def test_a_diverged_model_has_nan_metrics(task):
    found = measured(task, ByFirstToken([np.nan, 1.0, 1.0]), [SAMPLES])
    assert all(np.isnan(value) for value in found.values())


def test_the_baseline_is_the_error_of_the_mean():
    import pyarrow as pa

    tables = (pa.table({"label": labels}) for labels in ([1.0, 2.0], [6.0, float("nan")]))
    assert Task.baseline(None, tables, []) == {"mse_of_the_mean": pytest.approx((4 + 1 + 9) / 3)}


def test_a_number_is_predicted_and_rendered(task, words):
    assert task.predictions(outputs(task, ByFirstToken(VALUES), [SAMPLES]), None) == [{"value": v} for v in VALUES]
    assert "2.5" in task.render(sample(7, 2.5), words)


@pytest.mark.parametrize("count", [2, 3, 50, 1001])
def test_the_correlation_is_that_of_scipy(count):
    draw = np.random.default_rng(count)
    truth = draw.normal(size=count).round(1) * 1e3
    predicted = truth + draw.normal(size=count) * 500
    assert _metrics.pearson(truth, predicted) == pytest.approx(stats.pearsonr(truth, predicted).statistic, abs=1e-15)
    assert _metrics.pearson(truth * 1e250, predicted * 1e-250) == pytest.approx(_metrics.pearson(truth, predicted))
    assert _metrics.pearson(truth, np.ones(count)) == 0.0
