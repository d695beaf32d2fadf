import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import support
from support import browser as browsers
from support import warm_start

from launcher.config import trust
from launcher.distributed.signals import SIGNALS

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", COLUMNS="200")
os.environ.update(OMP_NUM_THREADS="1")  # models this small only wait for a second thread
os.environ.update(DS_ACCELERATOR="cpu")  # else DeepSpeed says at each import that it has chosen it

_LONGEST = ("slurm/test_jobs", "slurm/test_first_node", "test_trajectory", "test_recipes", "launch/", "slurm/", "test_")
"""Beginnings of the files of tests that wait or compute longest, below this folder."""

for number in SIGNALS:  # where the tests themselves run under nohup, or in a shell's background
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


warm_start.fork_code()


def pytest_collection_modifyitems(items):
    """Begin with the longest files, so that none of them is alone at the end."""
    here = Path(__file__).parent

    def place(item):
        file = item.path.relative_to(here).as_posix()
        return next((i for i, beginning in enumerate(_LONGEST) if file.startswith(beginning)), len(_LONGEST))

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _starts(request, monkeypatch):
    """Processes start as a user's do in a test that is marked `cold_start`; else many are forked from a warm server.
    `cold_start(False)`: of a test in a file that is marked."""
    marker = request.node.get_closest_marker("cold_start")
    monkeypatch.setattr(warm_start, "cold", marker is not None and marker.args != (False,))


@pytest.fixture(autouse=True)
def trusted():
    """What a test trusts is no other's: a plan names it in its command."""
    before = dict(trust._trusted)
    yield
    trust._trusted.clear()
    trust._trusted.update(before)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """One cache for the session: what is prepared or counted once serves every test."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["LAUNCHER_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def browser():
    """A real browser (see support.browser)."""
    with browsers.opened() as started:
        yield started


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder of one's own with a small corpus, and in it."""
    support.corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start():
    """Starts scripts, each with its own file of errors; whoever still lives at the end of a test is killed."""
    started = []

    def begin(script, *arguments):
        errors = Path(f"stderr-{len(started)}").open("w")  # noqa: SIM115
        with errors:
            command = [sys.executable, "-c", script, *map(str, arguments)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()
