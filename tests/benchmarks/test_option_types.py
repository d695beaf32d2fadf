import argparse

import pytest

from benchmarks import _option_types


def test_numbers_are_whole_and_above_0():
    assert _option_types.numbers("2,4") == [2, 4]
    for wrong in ("", "x", "2,", "0", "-1", "2.5"):
        with pytest.raises(argparse.ArgumentTypeError, match="whole numbers above 0"):
            _option_types.numbers(wrong)


def test_names_are_known():
    parsed = _option_types.names(["trainer", "torch"])
    assert (parsed("torch,trainer"), parsed("")) == (["torch", "trainer"], [])
    with pytest.raises(argparse.ArgumentTypeError, match=r"foo: no such name \(there are trainer, torch\)"):
        parsed("torch,foo")
