"""The training of one rank: its batches, the loop, evaluation, and checkpoints."""
