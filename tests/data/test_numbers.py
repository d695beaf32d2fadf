"""Numbers from tables, and random points."""

import json

import numpy as np
import pytest
from data.reading import read, told

from launcher.config.requested_columns import Column
from launcher.data import csv, jsonl, linear

COLUMNS = ("features", Column("label", "number"))


@pytest.fixture
def table(tmp_path):
    """Write lines as a table, in a file of each kind."""

    def make(*rows):
        names = list(rows[0])
        lines = [",".join(names), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
        (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        return tmp_path

    return make


@pytest.mark.parametrize("module", [csv, jsonl])
def test_features_are_columns_in_the_order_in_which_they_are_named(table, module):
    file = table({"x": 1, "y": -2.5, "price": 3}, {"x": 4, "y": 1e-3, "price": 7.5}) / f"rows.{module.__name__[14:]}"
    config = module.Config(path=str(file), features=["y", "x"], label="price")
    assert read(module, config, *COLUMNS) == [
        {"features": [-2.5, 1.0], "label": 3.0},
        {"features": [1e-3, 4.0], "label": 7.5},
    ]


@pytest.mark.parametrize("module", [csv, jsonl])
def test_what_is_no_number_is_told_by_file_line_and_column(table, module):
    rows = ({"x": 1, "y": 2, "label": 3}, {"x": "far", "y": 2, "label": 3}, {"x": 1, "y": None, "label": 3})
    rows += ({"x": 1, "y": 2, "label": "inf"},)
    file = table(*rows) / f"rows.{module.__name__[14:]}"
    first = 2 if module is csv else 1
    config = module.Config(path=str(file), features=["x", "y"])
    assert told(read(module, config, *COLUMNS)) == [
        f"{file}:{first + 1}: data.train.features: column 'x' is 'far': should be a number",
        f"{file}:{first + 2}: data.train.features: column 'y' is empty",
        f"{file}:{first + 3}: data.train.label: column 'label' is 'inf': should be a finite number",
    ]


def test_one_column_may_hold_a_list_and_a_column_that_is_missing_is_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"features": [1, 2], "label": 3}\n{"features": [], "label": 3}\n{"x": 1, "label": 3}\n')
    found = read(jsonl, jsonl.Config(path=str(file)), *COLUMNS)
    assert found[0] == {"features": [1.0, 2.0], "label": 3.0}
    assert told(found) == [
        f"{file}:2: data.train.features: column 'features' has no number",
        f"{file}:3: data.train.features: no column 'features' (there are: x, label)",
    ]


def test_points_lie_around_their_plane_by_as_much_as_is_said():
    found = read(linear, linear.Config(weights=[3.0, -1.0], bias=2.0, noise=0.25, rows=4000), *COLUMNS)
    x, y = np.array([row["features"] for row in found]), np.array([row["label"] for row in found])
    assert x.shape == (4000, 2)
    assert -1 <= x.min() < -0.99 and 0.99 < x.max() < 1
    assert abs(x.mean()) < 0.02 and abs(np.corrcoef(x.T)[0, 1]) < 0.05
    away = y - (3 * x[:, 0] - x[:, 1] + 2)
    assert abs(away.mean()) < 0.02
    assert away.std() == pytest.approx(0.25, rel=0.05)
    assert (np.abs(away) < 0.25).mean() == pytest.approx(0.683, abs=0.03)


def test_a_point_depends_on_the_seed_and_its_number_alone():
    few, many, other = (linear.Config(rows=rows, seed=seed) for rows, seed in ((10, 0), (1000, 0), (10, 1)))
    assert read(linear, few, *COLUMNS) == read(linear, many, *COLUMNS)[:10]
    assert read(linear, few, *COLUMNS) != read(linear, other, *COLUMNS)
    assert linear.Source(few).fingerprint("data.train") != linear.Source(other).fingerprint("data.train")
