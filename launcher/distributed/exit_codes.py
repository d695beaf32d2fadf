"""Exit codes of the command, of a node's agent, of a rank and of a batch job. They are part of the public interface."""

DONE = 0
"""The run reached its last step, or there was nothing left to train."""
FAILED = 1
"""Training failed: a rank raised an error or was killed."""
INVALID_INPUT = 2
"""The recipe, the cluster profile or the command line is wrong."""
NODE_FAILURE = 69
"""A node was lost or did not pass its health check: nothing is wrong with the recipe."""
STOPPED = 75
"""The run stopped early on request with a checkpoint saved: start it again to resume."""
INTERRUPTED = 130
"""Ctrl-C ended a command that starts no ranks. The code is 128 plus the signal's number, as in a shell."""
