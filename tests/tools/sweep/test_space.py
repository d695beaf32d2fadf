"""Lists and ranges of values as they are written, and the points that come of them."""

import math

import pytest

from launcher.config.errors import UserError
from launcher.tools.sweep import space
from launcher.tools.sweep.space import Choices, Range


def parsed(option, *texts):
    found, problems = space.parse(option, texts)
    assert problems == []
    return found


def test_a_grid_is_a_product_of_values_of_every_type():
    points = space.grid(parsed("--grid", "a.b=1e-4,0.5", 'c=x,"1",null,{kind: fsdp, shard: full},[1, 2],true'))
    assert points[:6] == [
        {"a.b": 1e-4, "c": value} for value in ("x", "1", None, {"kind": "fsdp", "shard": "full"}, [1, 2], True)
    ]
    assert len(points) == 12 and points[6]["a.b"] == 0.5


def test_ranges_and_choices():
    (lr, width, rate, batch, kind) = parsed(
        "--random", "lr=log:1e-5:1e-3", "width=int:1:8", "rate=float:0:1", "batch=log:16:256", "kind=choice:a,b"
    )
    assert (lr.log, lr.whole, width.whole, width.log, rate.whole, batch.whole, batch.log) == (
        True, False, True, False, False, True, True,
    )  # fmt: skip
    assert isinstance(kind, Choices) and kind.values == ("a", "b") and isinstance(lr, Range)


def test_draws_are_a_pure_function_of_the_seed_within_the_range():
    ranges = parsed("--random", "lr=log:1e-5:1e-3", "width=int:1:8", "batch=log:16:256", "kind=a,b")
    twenty = space.draw(ranges, 20, seed=3)
    assert space.draw(ranges, 30, seed=3)[:20] == twenty != space.draw(ranges, 20, seed=4)
    assert all(1e-5 <= one["lr"] <= 1e-3 and 1 <= one["width"] <= 8 and 16 <= one["batch"] <= 256 for one in twenty)
    assert all(type(one["width"]) is int and type(one["batch"]) is int for one in twenty)
    many = [math.log10(one["lr"]) for one in space.draw(ranges, 400, seed=0)]
    assert abs(sum(many) / 400 + 4) < 0.1  # uniform in the logarithm


def test_a_space_with_fewer_points_than_trials():
    assert len(space.draw(parsed("--random", "width=int:1:3"), 3, seed=0)) == 3
    with pytest.raises(UserError, match="--trials 4: these values have only 3 different points"):
        space.draw(parsed("--random", "width=int:1:3"), 4, seed=0)


def test_the_corners_have_each_value_and_both_ends():
    points = space.corners(parsed("--optuna", "lr=log:1e-5:1e-3", "kind=a,b,c"))
    assert points == [{"lr": 1e-5, "kind": "a"}, {"lr": 1e-3, "kind": "b"}, {"lr": 1e-3, "kind": "c"}]


@pytest.mark.parametrize(
    ("option", "text", "what"),
    [
        ("--grid", "optimizer.lr", "should be KEY=VALUES"),
        ("--grid", "optimizer.lr=", "should be KEY=VALUES"),
        ("--grid", ".lr=1", "should be KEY=VALUES"),
        ("--grid", "a=1,[2", "is not valid YAML|not closed|expected|did not find"),
        ("--grid", "a=1,1", "1 stands there twice"),
        ("--grid", "a=log:1:2", "a grid has lists of values"),
        ("--grid", "seed=1,2", "--seeds N trains"),
        ("--grid", "name=x", "a name of its own"),
        ("--grid", "evaluate={metric: a}", "compared by one metric"),
        ("--grid", "data.test=a", "never looks at the test set"),
        ("--grid", "cluster.nodes=1,2", "one cluster"),
        ("--random", "a=lgo:1:2", "unknown range 'lgo' .did you mean log"),
        ("--random", "a=log:0:2", "begins above 0"),
        ("--random", "a=float:2:1", "smaller than the second"),
        ("--random", "a=float:1", "float:LOW:HIGH"),
        ("--random", "a=float:1:2:3", "float:LOW:HIGH"),
        ("--random", "a=int:1:x", "int:LOW:HIGH"),
        ("--random", "a=int:1:2.5", "whole numbers"),
    ],
)
def test_mistakes(option, text, what):
    found, (problem,) = space.parse(option, [text])
    assert found == [] and problem.startswith(f"{option} {text}: ")
    with pytest.raises(AssertionError, match=what):
        raise AssertionError(problem)


def test_all_mistakes_are_found_and_a_key_stands_there_once():
    found, problems = space.parse("--grid", ["a=1", "a=2", "b", "c=3"])
    assert [one.key for one in found] == ["a", "c"] and len(problems) == 2 and "a stands there twice" in problems[0]
