"""Attention masks of micro-batches, built without a look at values on the device."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from launcher.tasks import Batch

_MODULE = "transformers.masking_utils"
_LEAVE_OUT = ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa")
_FIND_PACKED = "find_packed_sequence_indices"


@contextlib.contextmanager
def padding_is_known(batch: Batch) -> Iterator[None]:
    """Make transformers build the mask of a micro-batch without waiting for the device.

    In each forward, transformers reads whether a padding mask masks anything at all, and whether positions restart
    within a row. Both are known: a micro-batch has a padding mask only if something is padded (see
    launcher.tasks._token_batches), and positions are counted by the model, unless they are among its inputs. Without
    transformers, or in a version that does not have these functions, nothing changes.
    """
    module, positions = sys.modules.get(_MODULE), "position_ids" in batch.get("inputs", {})
    names = _LEAVE_OUT if positions else (*_LEAVE_OUT, _FIND_PACKED)
    functions = {name: vars(module)[name] for name in names if module is not None and name in vars(module)}
    for name, function in functions.items():
        setattr(module, name, _nothing_packed if name == _FIND_PACKED else _unless_padded(function))
    try:
        yield
    finally:
        for name, function in functions.items():
            setattr(module, name, function)


def _unless_padded(leave_out: Callable[..., bool]) -> Callable[..., bool]:
    """Return the decision whether to leave out a mask: no, if there is a padding mask."""

    def decided(padding_mask: object, *arguments: object, **options: object) -> bool:
        return padding_mask is None and leave_out(padding_mask, *arguments, **options)

    return decided


def _nothing_packed(position_ids: object) -> None:
    """Return that positions do not restart within a row."""
