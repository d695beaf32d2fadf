"""Processes that prepare the same data at the same time, and are killed in the middle."""

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import support
from prepare.workers import until

from launcher.config import load
from launcher.config.recipe import Recipe
from launcher.prepare import prepared_data, run_setup

TAKEOVER = 15.0
"""Seconds until another process continues the work of a killed one."""

# A source of eight parts, large enough for several processes; a line in `reads` for each part that is read, a pause
# within it. It stands in a folder of the user, as plug-ins do.
SLOW = """
import os
import time
from pathlib import Path
from launcher import data
from launcher.data import Part
from launcher.data._source import SourceConfig

class Config(SourceConfig):
    kind: str = "slow.source"

class Source(data.Source):
    def __init__(self, config):
        self.config = config

    def fingerprint(self, key):
        return "always the same"

    def parts(self, key):
        return [Part((str(number),), size=2**20) for number in range(8)]

    def rows(self, columns, key, part):
        with Path("reads").open("a") as out:
            out.write(f"{part.files[0]} {os.getpid()} {time.time()}\\n")
        for n in range(40):
            time.sleep(float(os.environ.get("PAUSE", 0)) / 40)
            yield {"text": f"row {n % 31} of part {part.files[0]} takes some words"}
"""


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """The folder of a tokenizer that is not trained on the source, so that the source is read once."""
    folder = support.corpus(tmp_path_factory.mktemp("words"))
    train = {"kind": "text", "path": str(folder / "corpus.txt"), "document": "line"}
    return prepared_data.prepare(Recipe.model_validate(support.mlm(data__train=train))) / "tokenizer"


@pytest.fixture
def slow(workspace, monkeypatch, words):
    """A recipe of the slow source in recipe.yaml."""
    (workspace / "slow").mkdir()
    (workspace / "slow" / "source.py").write_text(SLOW, encoding="utf-8")
    tokenizer = {"kind": "pretrained", "name": str(words)}
    support.write(support.mlm(data__train={"kind": "slow.source"}, tokenizer=tokenizer))
    monkeypatch.setenv("LAUNCHER_CACHE", str(workspace / "cache"))
    return workspace


@pytest.fixture
def undisturbed(slow, monkeypatch):
    """The files of a preparation without a kill."""
    monkeypatch.syspath_prepend(slow)

    def prepare():
        with monkeypatch.context() as patch:
            patch.setenv("LAUNCHER_CACHE", str(slow / "undisturbed"))
            run_setup.prepare(load.recipe("recipe.yaml"), processes=1)
        Path("reads").unlink()
        return content("undisturbed")

    return prepare


def prepared(cache="cache"):
    root = Path(cache) / "prepared"
    return sorted(root.iterdir()) if root.is_dir() else []


def content(cache="cache"):
    """Return the bytes of every file of the single folder in a cache. Fails if there is anything beside it."""
    (folder,) = prepared(cache)
    assert not folder.name.startswith(".")
    return {name: held for path, held in support.tree(folder).items() if (name := str(Path(path).relative_to(folder)))}


def reads():
    """Return part, process and time of each reading."""
    file = Path("reads")
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(part), int(pid), float(when)) for part, pid, when in map(str.split, lines)]


def finished():
    return list(Path("cache").glob("prepared/.*.work/shard-*.json"))


def start(number, **environment):
    """`launcher prepare`, its words in a file."""
    with Path(f"told-{number}").open("w") as told:
        command = support.command("prepare", "recipe.yaml")
        return subprocess.Popen(command, stdout=told, stderr=told, env={**os.environ, **environment})


def told(number):
    return Path(f"told-{number}").read_text()


def test_of_eight_commands_at_once_on_an_empty_cache_one_prepares(slow):
    started = [start(number, PAUSE="0.1") for number in range(8)]
    assert [process.wait(240) for process in started] == [0] * 8, "".join(map(told, range(8)))
    assert sorted(part for part, _, _ in reads()) == list(range(8)), "each part is read once"
    (folder,) = prepared()
    assert all(folder.name in told(number).replace("\n", "") for number in range(8))
    content()


def test_another_goes_on_with_the_work_of_a_killed_one(slow, undisturbed):
    expected = undisturbed()
    killed = start(0, PAUSE="1")
    until(lambda: len(finished()) >= 2, killed)
    waiting = start(1)
    until(lambda: f"waiting for process {killed.pid} on " in told(1), waiting)
    pool = psutil.Process(killed.pid).children(recursive=True)
    before, at = {pid for _, pid, _ in reads()}, time.time()
    killed.kill()
    made = {file.name for file in finished()}
    until(lambda: {pid for _, pid, _ in reads()} - before, waiting)
    taken = next(when for _, pid, when in reads() if pid not in before) - at
    assert taken < TAKEOVER
    assert psutil.wait_procs(pool, timeout=10)[1] == [], "the processes of a pool end with the one that started them"
    assert waiting.wait(120) == 0, told(1)
    again = [part for part, pid, _ in reads() if pid not in before]
    assert len(again) <= 8 - len(made), "what was finished is not read again"
    assert content() == expected
    print(f"taken over {taken:.1f} s after the kill")
    killed.wait()


def test_a_mistake_in_the_data_is_told_by_each_of_several_commands(slow):
    """A process that reports a mistake removes its own work, and no other's."""
    source, row = Path("slow/source.py"), SLOW.rpartition("yield ")[2]
    bad = 'BadRow(f"part {part.files[0]}", "is wrong")\n'
    source.write_text(
        SLOW.replace(row, bad).replace("import Part", "import BadRow, Part").replace("2**20", "1"), encoding="utf-8"
    )
    started = [start(number) for number in range(3)]
    assert [process.wait(240) for process in started] == [2, 2, 2], "".join(map(told, range(3)))
    assert all(": is wrong (or data.train.on_bad_row: skip" in told(number) for number in range(3))
    assert prepared() == []


# Kills at any moment


def phase():
    """Determine the present step by the files in the cache."""
    while True:
        try:
            return _phase()
        except FileNotFoundError:  # it has just gone
            continue


def _phase():
    hidden = [path for path in prepared() if path.name.startswith(".")]
    if any(not path.name.startswith(".") for path in prepared()):
        return "sweeping" if hidden else "done"
    if any(path.stat().st_size for path in Path("cache").glob("prepared/.*.whole-*/*.arrow")):
        return "joining"
    names = {path.name for folder in hidden if folder.suffix == ".work" for path in folder.iterdir()}
    if "tokenizer" in names:
        return "tokenising"
    if any(name.startswith("dropped") for name in names):
        return "training the tokenizer"
    return "looking" if hidden else "starting"


PHASES = ["starting", "looking", "training the tokenizer", "tokenising", "joining", "sweeping"]


def killed_in(draw, longest):
    """Start the command and kill it, at a random time or in a phase. Returns the phase."""
    wanted = draw.choice([None, *PHASES[1:]])
    process, end = support.start("prepare", "recipe.yaml"), time.monotonic() + draw.uniform(0, longest)
    while process.poll() is None and time.monotonic() < (end if wanted is None else end + longest):
        if wanted is not None and phase() == wanted:
            break
        time.sleep(0.0005)
    process.kill()
    process.communicate(timeout=30)  # returns when its pool has ended too: all have its output open
    return phase()


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.soak)])
def test_no_kill_leaves_a_broken_folder(slow, undisturbed, kills):
    support.write(support.mlm(data__train={"kind": "slow.source"}, data__deduplicate=True))
    expected, draw, hits = undisturbed(), random.Random(kills), Counter()
    for _ in range(kills):
        hits[killed_in(draw, longest=6.0)] += 1
        whole = [path for path in prepared() if not path.name.startswith(".")]
        if whole:
            run_setup.prepare(load.recipe("recipe.yaml"))  # finds it, and sweeps up
            assert content() == expected
            shutil.rmtree("cache")
    support.launcher("prepare", "recipe.yaml")
    assert content() == expected
    print(f"{kills} kills:", ", ".join(f"{hits[name]} {name}" for name in [*PHASES, "done"]))
