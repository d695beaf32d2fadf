"""bf16 and fp16 mean the same under every strategy, and so does what travels in bf16.

Products are rounded to 8 bits in bf16 (unit roundoff 2^-8), to 11 in fp16 (2^-11), and sums are kept in fp32. Ranks
make the same products as the single process, padded and summed otherwise, so that only some are rounded to the other
side; of either sign and many, they nearly cancel in a loss. Seen at the most, of losses: 7e-6 in bf16 and 3e-6 in
fp16; of norms: 5e-4 and 8e-5. Weights that are gathered in bf16 are all rounded, at each step: 3e-5 and 4e-3 from
fp32.
"""

import os
from pathlib import Path

import pytest
import support
from support import ranks, strategy_steps

SINGLE = {"kind": "single"}
UNIT = {"bf16": 2**-8, "fp16": 2**-11}
STEPS = 3
SPREAD = [
    {"kind": "ddp"},
    {"kind": "fsdp"},
    {"kind": "fsdp", "tensor_parallel": 2},
    *({"kind": "deepspeed", "zero": stage} for stage in (1, 3)),
]
IN_BF16 = [
    {"kind": "ddp", "compress": "bf16"},
    {"kind": "fsdp", "reduce": "bf16"},
    {"kind": "fsdp", "gather": "bf16"},
]
CASES = [(strategy, {"precision": precision}) for precision in UNIT for strategy in SPREAD]
CASES += [(strategy, {}) for strategy in IN_BF16]


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Rank 0's walks of all cases on two ranks, and the single process's by precision."""
    place, before = support.corpus(tmp_path_factory.mktemp("half")), Path.cwd()
    os.chdir(place)
    folder = place / ranks.ready(support.write(support.mlm()))
    plain = [(SINGLE, {"precision": precision}) for precision in ("bf16", "fp16", "fp32")]
    alone = ranks.on_ranks(1, strategy_steps.records, folder, plain, STEPS)[0]
    yield (
        ranks.on_ranks(2, strategy_steps.records, folder, CASES, STEPS),
        {train["precision"]: told for (_, train), told in zip(plain, alone, strict=True)},
    )
    os.chdir(before)


def away(alone, told, key):
    """The largest relative difference of a key of the records."""
    return max(abs(here[key] / there[key] - 1) for there, here in zip(alone, told, strict=True))


@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=lambda n: ",".join(map(str, {**CASES[n][0], **CASES[n][1]}.values()))
)
def test_it_is_that_of_the_single_process_in_the_same_precision(walked, number):
    every, single = walked
    train = CASES[number][1]
    alone, unit = single[train.get("precision", "fp32")], UNIT[train.get("precision", "bf16")]
    told = [rank[number] for rank in every]
    for one in told:
        records = [{k: v for k, v in record.items() if k != "seconds"} for record in one]
        assert [record["data"] for record in records] == [record["data"] for record in alone]
        assert away(alone, records, "loss") < unit / 50
        assert away(alone, records, "grad_norm") < (2 * unit if CASES[number][0].get("gather") else unit / 2)
        assert away(single["fp32"], records, "grad_norm") > 1e-5, "it is really rounded"
        if train.get("precision") == "fp16":
            assert {(r["scale"], r["overflows"], r["skipped"]) for r in records} == {(2.0**16, 0, 0)}
