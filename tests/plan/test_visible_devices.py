import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.plan.visible_devices import Selection, select

GPUS = {"GPU-aa11": [], "GPU-aa22": ["MIG-b1", "MIG-b2"], "GPU-cc33": []}


@pytest.mark.parametrize(
    ("value", "uuids", "invalid"),
    [
        (None, ("GPU-aa11", "GPU-aa22", "GPU-cc33"), ""),
        ("", (), ""),
        ("-1", (), ""),
        ("2,0", ("GPU-cc33", "GPU-aa11"), ""),
        (" 2 , 0 ", ("GPU-cc33", "GPU-aa11"), ""),
        ("1,-1,0", ("GPU-aa22",), ""),
        ("1,,0", ("GPU-aa22",), ""),
        ("0,9,1", ("GPU-aa11",), "9"),
        ("9", (), "9"),
        ("0,x,1", ("GPU-aa11",), "x"),
        ("NoDevFiles", (), "NoDevFiles"),
        ("1gpu,2", ("GPU-aa22", "GPU-cc33"), ""),  # CUDA reads the digits alone
        ("0,1,0", (), "0"),
        ("GPU-cc,GPU-aa1", ("GPU-cc33", "GPU-aa11"), ""),
        ("GPU-cc33,1", ("GPU-cc33", "GPU-aa22"), ""),
        ("GPU-aa", (), "GPU-aa"),  # two begin so
        ("GPU-cc,GPU-dd,GPU-aa1", ("GPU-cc33",), "GPU-dd"),
        ("GPU-cc33,GPU-cc", (), "GPU-cc"),
        ("MIG-b2", ("MIG-b2",), ""),
        ("MIG-b", (), "MIG-b"),
        ("MIG-b1,MIG-b2", ("MIG-b1", "MIG-b2"), ""),
        ("cc33", (), "cc33"),
    ],
)
def test_the_devices_that_cuda_shows(value, uuids, invalid):
    assert select(value, GPUS) == Selection(uuids, invalid)


ENTRIES = st.one_of(
    st.integers(-2, 9).map(str),
    st.sampled_from(["", "GPU-aa11", "GPU-aa", "GPU-cc", "MIG-b1", "MIG-", "x", " 1 ", "0x1", "+2"]),
    st.text(max_size=4).filter(lambda text: "," not in text),
)


@given(st.lists(ENTRIES, max_size=6))
def test_every_value_selects_known_devices_once_and_a_longer_one_changes_no_index(entries):
    """An entry more adds one device at the end, ends the list, or is a repetition, which hides all."""
    known = {*GPUS, "MIG-b1", "MIG-b2"}
    before: tuple[str, ...] = ()
    repeated = False
    for end in range(1, len(entries) + 1):
        found = select(",".join(entries[:end]), GPUS)
        assert set(found.uuids) <= known
        assert len(set(found.uuids)) == len(found.uuids)
        if repeated:
            assert found.uuids == ()
        elif found.uuids != before:
            repeated = found.uuids == ()
            assert repeated or found.uuids[:-1] == before
        before = found.uuids


@given(st.permutations(range(3)), st.integers(0, 3))
def test_indices_keep_their_order(order, count):
    uuids = [list(GPUS)[index] for index in order[:count]]
    assert select(",".join(map(str, order[:count])), GPUS).uuids == tuple(uuids)
    assert select(",".join(uuids), GPUS).uuids == tuple(uuids)
