"""Predicted speeds beside published ones, as docs/scaling.md shows them."""

from pathlib import Path
from statistics import median

import pytest
from support.published_steps import FIGURES

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.mark.parametrize("figure", FIGURES, ids=lambda one: f"{one.source}-{one.model}-{one.devices}x{one.gpu}")
def test_the_docs_have_the_prediction_beside_the_published_figure(figure):
    assert figure.line in PAGE.read_text(encoding="utf-8"), figure.line


def test_no_figure_is_left_out_of_the_docs():
    sources = tuple(f"| {figure.source} |" for figure in FIGURES)
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(sources)]
    assert len(rows) == len(FIGURES)


@pytest.mark.parametrize(("gpu", "most"), [("A100", 1.3), ("A100-40GB", 1.2), ("H100", 1.45), ("V100", 2.45)])
def test_predictions_are_as_far_from_the_figures_as_the_docs_admit(gpu, most):
    """The devices of the prediction reach 80% of their data sheets, so that it is faster than a training."""
    ratios = [figure.ratio for figure in FIGURES if figure.gpu == gpu]
    assert 0.99 <= min(ratios) <= median(ratios) <= max(ratios) <= most


def test_published_scaling_is_predicted_within_a_fifth():
    """From one node to the most: what the speeds of a source have in common cancels out."""
    for source, model, gpu, length in {(f.source, f.model, f.gpu, f.length) for f in FIGURES}:
        found = [f for f in FIGURES if (f.source, f.model, f.gpu, f.length) == (source, model, gpu, length)]
        same = [f for f in found if f.micro_batch == found[0].micro_batch]
        assert same[-1].ratio / same[0].ratio == pytest.approx(1, abs=0.2)
