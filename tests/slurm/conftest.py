"""A Slurm lab for each of pytest's workers: labs live side by side, so that no file of tests waits for another."""

import pytest
import support
from support.slurm_lab import Lab, missing


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """Three nodes of 4 CPUs and 4 fake GPUs, for the session."""
    support.needs(missing())
    started = Lab.start(tmp_path_factory.mktemp("lab"), 3)
    yield started
    started.end()


@pytest.fixture
def lab(slurm):
    """The lab, with all nodes idle; no job and no harm is left to the next test."""
    yield slurm
    slurm.reset()
