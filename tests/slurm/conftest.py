"""A Slurm lab for each of pytest's workers: labs live side by side, so that no file of tests waits for another."""

import os

import pytest
from slurm.lab import Lab, missing


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """Three nodes of 4 CPUs and 4 fake GPUs, for the session."""
    why = missing()
    if why and os.environ.get("CI"):
        pytest.fail(f"{why}; in CI these tests are not left out")
    if why:
        pytest.skip(why)
    started = Lab.start(tmp_path_factory.mktemp("lab"), 3)
    yield started
    started.end()


@pytest.fixture
def lab(slurm):
    """The lab, with all nodes idle; no job and no harm is left to the next test."""
    yield slurm
    slurm.reset()
