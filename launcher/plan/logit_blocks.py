"""Sizes of the blocks in which a language-modelling loss is computed (see launcher.tasks._linear_cross_entropy)."""

_BLOCK = {"cpu": 2**26}
_PART = {"cpu": 2**22}
_ELSEWHERE = 2**28
"""Bytes of a block of logits in the type of the products, and of the part of it that is in fp32 (or fp64) at a time.

A part stays in a CPU's cache (measured: 11 ms for 614 rows of 30,522 at 2 to 8 MiB, 13 at 32). A block is as large as a
training step's labels usually are, because each further one adds to the gradient of the whole weight. Both are larger
on an accelerator, where each operation has a cost of its own."""


def rows_of_block(classes: int, width: int, device: str) -> int:
    """Return the maximum number of rows of a block of logits. `width`: bytes of a value; `device`: its type."""
    return max(1, _BLOCK.get(device, _ELSEWHERE) // (classes * width))


def rows_of_part(classes: int, width: int, device: str) -> int:
    """Return the maximum number of rows that are in full precision at a time. Arguments: as for `rows_of_block`."""
    return max(1, _PART.get(device, _ELSEWHERE) // (classes * width))
