from hypothesis import given
from hypothesis import strategies as st

from launcher.train.precision import LossScale

LARGEST, GROW_AFTER = 2.0**24, 2000


@given(st.integers(0, 40), st.lists(st.booleans(), max_size=60))
def test_a_scale_is_a_power_of_two_between_one_and_where_it_began_or_may_grow(power, overflows):
    scale = LossScale(2.0**power)
    for overflow in overflows:
        before = scale.value
        if overflow:
            assert scale.shrink() == (before > 1)
            assert scale.value == max(1.0, before / 2)
        else:
            scale.succeed(dynamic=True)
            assert scale.value == before
        assert float(scale.value).hex().startswith("0x1.0000000000000p")
        assert 1 <= scale.value <= 2.0**power


@given(st.integers(0, 30), st.integers(0, 3 * GROW_AFTER))
def test_it_doubles_after_two_thousand_steps_without_an_overflow_up_to_the_largest(power, steps):
    scale = LossScale(2.0**power)
    for _ in range(steps):
        scale.succeed(dynamic=True)
    expected = 2.0**power
    for _ in range(steps // GROW_AFTER):
        expected = expected * 2 if expected < LARGEST else expected
    assert scale.value == expected


@given(st.integers(1, GROW_AFTER - 1))
def test_an_overflow_begins_the_count_again(good):
    scale = LossScale(4.0)
    for _ in range(good):
        scale.succeed(dynamic=True)
    assert scale.shrink()
    for _ in range(GROW_AFTER - 1):
        scale.succeed(dynamic=True)
    assert scale.value == 2.0
    scale.succeed(dynamic=True)
    assert scale.value == 4.0


@given(st.integers(0, 2 * GROW_AFTER))
def test_what_needs_no_scale_has_none(steps):
    scale = LossScale.of("bf16")
    for _ in range(steps):
        scale.succeed(dynamic=False)
    assert scale.value == 1.0
    assert not scale.shrink()


def test_only_fp16_begins_with_one():
    assert {name: LossScale.of(name).value for name in ("fp32", "bf16", "fp16", "fp64")} == {
        "fp32": 1.0, "bf16": 1.0, "fp16": 2.0**16, "fp64": 1.0,
    }  # fmt: skip
