"""Checks of the launcher on one accelerator: `python -m benchmarks.gpu`, or `--rehearse` on a machine without one."""
