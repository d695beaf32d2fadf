"""Checks of a machine: each a pure function of what a probe beside it has read.

`launcher doctor` runs all of them on the machines of a profile. The first seconds of a job on several nodes run those
that take no time.
"""
