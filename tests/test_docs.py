"""The documentation: every command in it runs, every recipe loads, every file that it names exists."""

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
import support
import typer
from ruamel.yaml import YAML

from launcher import cli
from launcher.config import kinds, load
from launcher.tools import key_reference, sweep_grid

ROOT = Path(__file__).parents[1]
PAGES = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for file in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        *(ROOT / folder / "README.md" for folder in ("recipes", "cluster", "slurm")),
    )
}
HOW_TOS = {page for page in PAGES if page.startswith("docs/how-to/")}
"""Pages whose commands follow each other, with data of their own: tests/test_how_to.py."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMANDS = typer.main.get_command(cli.app).commands
TIMEOUT = 600
"""Seconds that a command may take on a busy machine. Most take one."""
STARTERS = ("launcher", "make", "python", "pip", "torchrun", "accelerate", "deepspeed", "srun", "mpirun", "sbatch")


def blocks(page: str, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(PAGES[page]) if kind == language]


def commands(page: str) -> list[str]:
    """The commands of a page: each line of its sh blocks, and in its console blocks those after a dollar sign."""
    typed = [line for block in blocks(page, "sh") for line in block.splitlines()]
    typed += [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [" ".join(words) for line in typed if (words := [shlex.quote(w) for w in shlex.split(line, comments=True)])]


# --- how a command runs here


def run_launcher(words: Sequence[str]) -> None:
    """The command itself, on a recipe that takes no time."""
    expanded = [path for word in words[1:] for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    names = {} if words[1] == "recipes" else SHORT_RECIPES
    support.launcher(*(names.get(word, word) for word in expanded), timeout=TIMEOUT)


def run_process(words: Sequence[str]) -> None:
    subprocess.run(
        [sys.executable, *(SHORT_RECIPES.get(word, word) for word in words[1:])],
        check=True,
        capture_output=True,
        timeout=TIMEOUT,
    )


def parse(words: Sequence[str]) -> None:
    """Every option and argument is one that the command takes."""
    COMMANDS[words[1]].make_context(words[1], list(words[2:]))


def plan(words: Sequence[str]) -> None:
    """The plan of what would be started: recipe, overrides and cluster."""
    run_launcher(["launcher", "plan", *words[2:]])


def plan_worker(words: Sequence[str]) -> None:
    """The plan of the recipe and overrides that the ranks would get."""
    plan(["launcher", "plan", *words[words.index("launcher.worker") + 1 :], "--ranks", "2"])


def torchrun(words: Sequence[str]) -> None:
    from torch.distributed.run import get_args_parser

    get_args_parser().parse_args(words[1:])
    plan_worker(words)


def accelerate(words: Sequence[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    launch_command_parser().parse_args(words[2:])
    plan_worker(words)


def check_gpu(words: Sequence[str]) -> None:
    """The options and checks exist."""
    gpu = importlib.import_module("benchmarks.gpu.__main__")
    gpu.selected(gpu.parser().parse_args(words[3:]).only)


def check_benchmark(words: Sequence[str]) -> None:
    """The benchmark and its options exist."""
    command = importlib.import_module("benchmarks.__main__")
    name, options = words[3] if words[3:] else "compare", list(words[4:])
    if name != "compare":  # which has no module
        command.parser(name, command.found()[name]).parse_args(options)


def make(words: Sequence[str]) -> None:
    """The recipes of the targets, not executed."""
    subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)


def pip(words: Sequence[str]) -> None:
    """The extras exist in pyproject.toml."""
    assert words[:2] == ["pip", "install"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words[2:]:
        found = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
        assert found and set(filter(None, (found[1] or "").split(","))) <= set(extras), word


def activate(words: Sequence[str]) -> None:
    """The folder is the one that the Makefile creates."""
    assert f"VENV := {Path(words[1]).parents[1]}\n" in (ROOT / "Makefile").read_text()


def slurm_dry_run(words: Sequence[str]) -> None:
    run_launcher([*words, *([] if "--dry-run" in words else ["--dry-run"])])


def completion(words: Sequence[str]) -> None:
    """The program has the option."""
    assert {*words[1:]} <= {name for option in typer.main.get_command(cli.app).params for name in option.opts}


SUBSTITUTES: list[tuple[str, Callable[[Sequence[str]], None], str]] = [
    ("make ", make, "takes minutes, or is the suite that runs this test"),
    ("pip install", pip, "downloads; a test of its own installs the package into an empty environment"),
    (r"\. ", activate, "changes the shell that it is typed in"),
    ("launcher sweep .*--(random|optuna)", parse, "twenty trials, or Slurm: tests/tools/sweep, tests/slurm train"),
    ("launcher submit", slurm_dry_run, "needs Slurm: tests/slurm submits to a real one"),
    ("launcher --.*-completion", completion, "changes the user's shell: tests/tools/test_completion.py drives a bash"),
    ("launcher stop", parse, "needs a run that trains: tests/tools/test_stop.py stops some"),
    ("launcher doctor", parse, "needs a quiet machine, or nodes: tests/tools/doctor and tests/slurm run it"),
    ("launcher cancel", parse, "needs a submitted job: tests/slurm cancels real ones"),
    ("launcher run .*--cluster two-hosts-ssh", plan, "needs two hosts: tests/schedulers starts a real sshd"),
    ("launcher run .*--via", parse, "tests/test_starts.py starts ranks by each starter"),
    ("torchrun", torchrun, "8 ranks, or two hosts: tests/test_starts.py starts fewer"),
    ("accelerate", accelerate, "8 ranks: tests/test_starts.py starts fewer"),
    ("deepspeed|srun|mpirun", plan_worker, "8 ranks, GPUs or Slurm: tests/test_starts.py and tests/slurm start them"),
    ("launcher run R name=[ab]", plan, "trains: tests/test_trajectory.py compares the digests of layouts"),
    ("launcher (run|compare) .*seed", parse, "trains two runs: tests/tools/test_seeds.py does"),
    ("launcher run .*folds", parse, "trains five runs: tests/tools/test_folds.py trains three"),
    ("launcher evaluate .*--split test", parse, "needs a test set: tests/tools/test_folds.py has one"),
    ("launcher run bert-text-classification", parse, "needs a model of the hub"),
    ("python -m benchmarks.gpu", check_gpu, "needs a GPU, or minutes: tests/test_gpu.py runs parts of it"),
    ("python -m benchmarks( |$)", check_benchmark, "takes minutes, or fetches data: tests/benchmarks runs some"),
    ("launcher parity", parse, "starts every layout: tests/tools/test_parity.py compares them"),
    ("launcher diff", parse, "exits with 1 where runs differ: tests/tools/diff compares some"),
    ("launcher new", parse, "writes a recipe for a file: tests/tools/test_new.py does, and trains it"),
    ("launcher debug .*--profile", parse, "tests/tools/debug/test_examinations.py reads a trace"),
    ("launcher debug .*--overfit", parse, "200 steps: tests/tools/debug/test_debug.py learns a batch"),
]  # fmt: skip
"""Commands that do not run as they stand: a pattern, what runs in their place, and why."""


@cache
def execute(command: str) -> None:
    """Run a command, once for all pages that have it."""
    words = shlex.split(command)
    assert words[0] in (".", *STARTERS), f"{command}: no command that this test knows"
    for pattern, substitute, _ in SUBSTITUTES:
        if re.match(pattern, command):
            return substitute(words)
    return run_process(words) if words[0] == "python" else run_launcher(words)


SHORT_RECIPES = {
    "R": "short/quickstart-pretrain.yaml",
    "quickstart-pretrain": "short/quickstart-pretrain.yaml",
    "quickstart-finetune": "short/quickstart-finetune.yaml",
    "my-finetune.yaml": "short/quickstart-finetune.yaml",
}
"""Recipes that stand for those in the pages: the same names, tasks and models, a few steps of a tiny model."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, the short recipes, and what else the commands name."""
    folder = support.corpus(tmp_path_factory.mktemp("docs"))
    pretrain = support.mlm("quickstart-pretrain", evaluate={"at_start": True})
    from_run = {"kind": "run", "run": "runs/quickstart-pretrain"}
    (folder / "short").mkdir()
    support.write(pretrain, folder / "short" / "quickstart-pretrain.yaml")
    finetune = support.classification("quickstart-finetune", model=from_run, tokenizer=None)
    support.write(finetune, folder / "short" / "quickstart-finetune.yaml")
    support.write(support.mlm("my"), folder / "my-recipe.yaml")
    (folder / "new.jsonl").write_bytes((folder / "corpus.jsonl").read_bytes())
    (folder / "grid.yaml").write_text("optimizer.lr: [1.0e-4, 3.0e-4]\nseed: [1, 2, 3]\n")
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> Path:
    """The folder with both runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("quickstart-pretrain", "quickstart-finetune"):
            support.launcher("run", SHORT_RECIPES[name], "--ranks", 1, timeout=TIMEOUT)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page) and page not in HOW_TOS])
def test_every_command_runs(page: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    for command in commands(page):
        execute(command)


def test_every_substitute_is_used() -> None:
    everything = [command for page in PAGES for command in commands(page)]
    assert [pattern for pattern, *_ in SUBSTITUTES if not any(re.match(pattern, c) for c in everything)] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_of_shell(page: str) -> None:
    others = [text for kind, text in FENCE.findall(PAGES[page]) if kind not in ("sh", "console", "python")]
    typed = re.compile(rf"(\$ )?({'|'.join(STARTERS)})( \S+)+( +#.*)?")  # columns of a table are further apart
    assert [line for text in others for line in text.splitlines() if typed.fullmatch(line)] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_a_sentence_have_options_that_exist(page: str) -> None:
    for code in re.findall(r"`(launcher [a-z][^`]*)`", FENCE.sub("", PAGES[page])):
        words = code.split()
        assert words[1] in COMMANDS, code
        options = {
            option for parameter in COMMANDS[words[1]].params for option in [*parameter.opts, *parameter.secondary_opts]
        }
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options | {"--help"}, code


def test_the_reference_is_the_generated_one() -> None:
    """`python -m launcher.tools.key_reference > docs/reference.md` writes it anew."""
    assert PAGES["docs/reference.md"] == key_reference.reference()


def test_every_key_has_a_description() -> None:
    assert [line for line in PAGES["docs/reference.md"].splitlines() if line.endswith("|  |")] == []


@pytest.mark.parametrize("file", [*load.shipped("recipes"), *load.shipped("cluster")], ids=lambda file: file.stem)
def test_the_reference_has_every_key_of_a_shipped_file(file: Path) -> None:
    sections = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    free = ("model", "env", "weights", "sources", "extra", "base")  # with keys that are not the launcher's
    for name, value in sections.items():
        keys = value if isinstance(value, dict) and name not in free else {}
        for path in [name, *(f"{name}.{key}" for key in keys if key != "kind")]:
            assert (
                path in free
                or f"`{path}`" in PAGES["docs/reference.md"]
                or f"`{path.partition('.')[2]}`" in PAGES["docs/reference.md"]
            )


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 200


@pytest.mark.parametrize("family", ["models", "data", "tasks", "strategies", "sinks", "optimizers", "lr_schedules"])
def test_the_readme_lists_every_kind(family: str) -> None:
    keys = {"models": "model", "data": "data", "tasks": "task", "strategies": "strategy", "sinks": "sinks",
            "optimizers": "optimizer", "lr_schedules": "schedule"}  # fmt: skip
    row = next(line for line in PAGES["README.md"].splitlines() if line.startswith(f"| `{keys[family]}` |"))
    assert set(re.findall(r"`(\w+)`", row)) - {keys[family]} >= set(kinds.available(family)) - {keys[family]}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", PAGES[page])):
        if target.startswith("http"):
            continue
        path, _, heading = target.partition("#")
        file = here / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        assert not heading or heading in [
            re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
        ], target


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_files_that_a_page_names_exist(page: str) -> None:
    for path in re.findall(r"`((?:launcher|tests|benchmarks|recipes|cluster|slurm)/[\w./-]*\w/?)`", PAGES[page]):
        assert (ROOT / path).exists(), f"{page}: {path}"


def recipes() -> Iterator[tuple[str, str]]:
    return ((page, text) for page in PAGES if page not in HOW_TOS for text in blocks(page, "yaml"))


@pytest.mark.parametrize(("page", "text"), list(recipes()))
def test_recipes_load(page: str, text: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a recipe is laid over a whole one; a map of dotted keys is the grid of a sweep."""
    monkeypatch.chdir(folder)
    file = tmp_path / "recipe.yaml"
    if re.search(r"^\w+\.\w+:", text, re.MULTILINE):
        file.write_text(text)
        assert sweep_grid.read(file, "sweep")
    else:
        base = "" if text.startswith("name:") else f"base: {folder}/short/quickstart-pretrain.yaml\n"
        file.write_text(base + text)
        assert load.recipe(file).value.name


# --- docs/architecture.md


def test_the_picture_of_the_floors_is_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    (picture,) = blocks("docs/architecture.md", "text")
    assert [re.split(r"  +", line[2:])[0] for line in picture.splitlines()] == layers
    assert [line[0] for line in picture.splitlines()] == ["│"] * (len(layers) - 1) + ["▼"]


@pytest.mark.parametrize(("title", "most"), [("recipe", 10), ("sample", 12), ("checkpoint", 6)])
def test_the_ways_through_the_code_are_short_and_exist(title: str, most: int) -> None:
    """Each step is a file, with the functions that it defines."""
    section = next(
        part for part in PAGES["docs/architecture.md"].split("\n## ") if part.startswith(f"The way of a {title}")
    )
    steps = re.findall(r"^\d+\. `(launcher/[\w/]+\.py)`: (.*(?:\n   .*)*)", section, re.MULTILINE)
    assert 0 < len(steps) <= most
    assert len(steps) == len(re.findall(r"^\d+\. ", section, re.MULTILINE)) == len({file for file, _ in steps})
    for file, text in steps:
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", text):
            assert re.search(rf"^ *(?:def|class) {name}\b", source, re.MULTILINE) or name in source, f"{file}: {name}"
        first = re.search(r"`(\w+)`", text)
        assert first and re.search(rf"^ *def {first[1]}\b", source, re.MULTILINE), f"{file}: {text}"


def test_the_modules_that_import_torch_at_once_are_named() -> None:
    (section,) = re.findall(r"^`config`, .*?\n\n", PAGES["docs/architecture.md"], re.DOTALL | re.MULTILINE)
    packages = re.findall(r"`(\w+)`", section)
    files = [file for package in packages for file in (ROOT / "launcher" / package).glob("*.py")]
    files = [file for file in [*files, ROOT / "launcher/cli.py"] if file.is_file()]
    at_once = {file for file in files if re.search(r"^(?:import|from) torch\b", file.read_text("utf-8"), re.MULTILINE)}
    assert {str(file.relative_to(ROOT)) for file in at_once} == set(re.findall(r"`(launcher/[\w/]+\.py)`", section))


# --- docs/plugins.md


FAMILIES = {
    "Sink": "sinks", "Schedule": "lr_schedules", "Optimizer": "optimizers", "Source": "data", "Model": "models",
    "Strategy": "strategies", "Task": "tasks", "Scheduler": "schedulers",
}  # fmt: skip


@pytest.mark.parametrize("text", blocks("docs/plugins.md", "python"))
def test_every_plug_in_is_a_kind(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by its dotted path, and has every required member of its family's base class."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mypkg", raising=False)
    name = re.findall(r"mypkg/(\w+)\.py", text)[0]
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / f"{name}.py").write_text(text)
    kind = next(name for name in re.findall(r"^class (\w+)", text, re.MULTILINE) if name in FAMILIES)
    module = kinds.module(FAMILIES[kind], f"mypkg.{name}")
    assert issubclass(getattr(module, kind), getattr(importlib.import_module(f"launcher.{FAMILIES[kind]}"), kind))
    assert not getattr(module, kind).__abstractmethods__


def test_every_family_has_an_example() -> None:
    classes = re.findall(r"^class (\w+)", "".join(blocks("docs/plugins.md", "python")), re.MULTILINE)
    assert FAMILIES.keys() <= set(classes)
