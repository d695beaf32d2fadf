"""What all ranks learn about a global batch before they compute its gradient: weight, digest, requests to stop."""

from dataclasses import dataclass

import numpy as np

from launcher.contract import digest
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.signals import StopReason
from launcher.train.rank_batch import RankBatch

_RANK_INFO = np.dtype(
    [
        ("weight", "f8"),
        ("digest", "u8"),
        ("tokens", "i8"),
        ("padded", "i8"),
        ("squares", "i8"),
        ("wait", "f8"),
        ("stop", "i8"),
        ("due", "i8"),
        ("writing", "i8"),
        ("own", "f8"),
        ("max_tokens", "i8"),
        ("out_of_memory", "i8"),
    ]
)


@dataclass(frozen=True)
class StepInfo:
    """A global batch over all ranks.

    `padded`: the number of positions computed, with padding. `squares`: the sum of the squared lengths of samples.
    `wait`: seconds that the slowest rank waited for its share. `stop`: the strongest reason to stop of any rank. `due`:
    whether a checkpoint is due on any rank. `writing`: whether any rank is still writing a checkpoint. `own`: of each
    rank, the seconds since its start in its own data and forward passes. `max_tokens`: the lowest limit of a
    micro-batch of any rank; 0: there is none. `out_of_memory`: number of micro-batches that did not fit since the
    start, over all ranks.
    """

    weight: float
    digest: int
    tokens: int
    padded: int
    squares: int
    wait: float
    stop: StopReason
    due: bool
    writing: bool = False
    own: tuple[float, ...] = ()
    max_tokens: int = 0
    out_of_memory: int = 0


def sync_step_info(
    process: ProcessGroup,
    batch: RankBatch,
    wait: float = 0.0,
    stop: StopReason = StopReason.NONE,
    due: bool = False,
    writing: bool = False,
    own: float = 0.0,
    max_tokens: int | None = None,
    out_of_memory: int = 0,
) -> StepInfo:
    """Gather the ranks' shares of a global batch in one exchange. All ranks call it. `wait`: seconds that this rank
    waited for its share. The other arguments: as in StepInfo, of this rank."""
    counts = (batch.weight, batch.digest, batch.tokens, batch.padded, batch.squares)
    counts = counts if process.leads else (0.0, 0, 0, 0, 0)
    own_info = (*counts, wait, stop, due, writing, own, max_tokens or 0, out_of_memory)
    ranks = process.all_gather(np.array(own_info, dtype=_RANK_INFO))
    return StepInfo(
        weight=float(ranks["weight"].sum()),
        digest=digest.total(ranks["digest"].tolist()),
        tokens=int(ranks["tokens"].sum()),
        padded=int(ranks["padded"].sum()),
        squares=int(ranks["squares"].sum()),
        wait=float(ranks["wait"].max()),
        stop=StopReason(int(ranks["stop"].max())),
        due=bool(ranks["due"].any()),
        writing=bool(ranks["writing"].any()),
        own=tuple(ranks["own"].tolist()),
        max_tokens=int(min(filter(None, ranks["max_tokens"].tolist()), default=0)),
        out_of_memory=int(ranks["out_of_memory"].sum()),
    )
