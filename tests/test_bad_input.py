"""What a user may get wrong, and what a kill may leave behind, through the command as it is typed.

Refused: exit code 2, one line that says where and what to do, no rank started, not a byte written in the user's folder.
Survived: the run goes on, says what it found, and what had been saved stays as it was.
"""

import contextlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import support

from launcher import build
from launcher.config import kinds, load
from launcher.config.errors import UserError
from launcher.config.paths import COMPLETE
from launcher.prepare import run_setup
from launcher.storage import lease

RUN = Path("runs/tiny")
OR_SKIP = "(or data.train.on_bad_row: skip, to leave such rows out)"
SECOND, FOURTH = RUN / "checkpoints/step-00000002", RUN / "checkpoints/step-00000004"
TRAINED = {"train__steps": 4, "checkpoint": {"every": 2}}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run of four steps with a checkpoint at two and at four, trained once and only copied."""
    folder = support.corpus(tmp_path_factory.mktemp("trained"))
    with contextlib.chdir(folder):
        support.launcher("run", support.write(support.mlm(**TRAINED)))
    return folder


@pytest.fixture
def trained(original, tmp_path, monkeypatch):
    """A copy of it without logs, in the current folder: a rank that starts makes a log."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(RUN / "logs")
    return tmp_path


def refused(command: str, told: str | list[str], *arguments: object) -> None:
    """The command says this, most often one line, and ends with 2; no rank has made a log, and no file is another."""
    before = support.tree(".")
    done = support.launcher(command, "recipe.yaml", *arguments, code=2)
    assert done.stderr.splitlines() == ([told] if isinstance(told, str) else told)
    assert done.stdout == ""
    assert support.tree(".") == before


def told_by_check(*overrides: str, ranks: int = 1) -> list[str]:
    """The same within this process."""
    before = support.tree(".")
    with pytest.raises(UserError) as told:
        run_setup.validate(load.recipe("recipe.yaml", overrides), load.cluster("local").value, ranks)
    assert support.tree(".") == before
    return str(told.value).splitlines()


def line_of(text: str) -> int:
    """The line of recipe.yaml with this text."""
    lines = Path("recipe.yaml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def unfinished(cache: Path) -> list[Path]:
    """What a preparation that was refused has left."""
    return [*(cache / "prepared").glob(".*"), *cache.rglob("*.partial")]


# The recipe


def test_an_unknown_key_is_refused(workspace):
    support.write(support.mlm(train__global_bach=24))
    told = "train.global_bach: unknown key (did you mean global_batch?)"
    refused("plan", f"recipe.yaml:{line_of('global_bach')}: {told}")


@pytest.mark.parametrize(
    ("folder", "key"),
    [("data", "data__train"), ("models", "model"), ("sinks", "sinks"), ("strategies", "strategy"), ("tasks", "task")],
)
def test_an_unknown_kind_is_refused_with_those_that_exist(workspace, folder, key):
    unknown = {"kind": "zzzzzz"}
    support.write(support.mlm(**{key: [unknown] if key == "sinks" else unknown}))
    name = "sinks.0" if key == "sinks" else key.replace("__", ".")
    known = ", ".join(kinds.available(folder))
    refused("plan", f"recipe.yaml:{line_of('zzzzzz')}: {name}: unknown kind 'zzzzzz' (there are: {known})")


def test_a_value_of_the_wrong_type_is_refused(workspace):
    support.write(support.mlm(train__steps="many"))
    refused("plan", f"recipe.yaml:{line_of('many')}: train.steps: should be a valid integer")


def test_several_mistakes_are_told_in_one_go(workspace):
    support.write(
        support.mlm(train__steps="many", train__global_bach=24, sinks=["consol"], optimizer={"kind": "adamv"})
    )
    told = [
        "'task.mask_rate=2': task.mask_rate: should be less than 1 (as a fraction: 0.02), or a map of keys and values",
        f"recipe.yaml:{line_of('global_bach')}: train.global_bach: unknown key (did you mean global_batch?)",
        f"recipe.yaml:{line_of('many')}: train.steps: should be a valid integer",
        f"recipe.yaml:{line_of('kind: adamv')}: optimizer: unknown kind 'adamv' (did you mean adam?)",
        f"recipe.yaml:{line_of('consol')}: sinks.0: unknown kind 'consol' (did you mean console?)",
    ]
    refused("plan", told, "task.mask_rate=2")


def test_a_recipe_file_that_is_not_there_is_refused(workspace):
    refused("plan", "recipe.yaml: no such file")


def test_a_base_file_that_is_not_there_is_refused(workspace):
    support.write(support.mlm(base="gone.yaml"))
    refused("plan", f"recipe.yaml:{line_of('gone')}: base: gone.yaml: no such file")


# The data


def test_a_data_file_that_is_not_there_is_refused(workspace):
    support.write(support.mlm(data__train__path="gone.txt"))
    refused("plan", f"recipe.yaml:{line_of('gone')}: data.train.path: gone.txt: no such file")


def test_data_files_that_are_not_there_are_told_beside_all_other_mistakes(workspace):
    support.write(support.mlm(data__train__path="gone/*.txt", data__validation={"kind": "text", "path": "gone.txt"}))
    assert told_by_check("tokenizer=", "model.hidden_sise=3", ranks=13) == [
        f"recipe.yaml:{line_of('gone/')}: data.train.path: gone/*.txt: no such file",
        f"recipe.yaml:{line_of('gone.txt')}: data.validation.path: gone.txt: no such file",
        "'tokenizer=': tokenizer: missing: a model of kind config brings none (train or pretrained)",
        f"recipe.yaml:{line_of('global_batch')}: train.global_batch: 12 samples cannot be shared by 13 ranks "
        "(at least one each: fewer ranks, or a larger batch)",
        "'model.hidden_sise=3': model.hidden_sise: unknown key of BertConfig (did you mean hidden_size?)",
    ]


def test_an_empty_corpus_is_refused(workspace, cache):
    Path("corpus.txt").write_text("\n \n\n")
    support.write(support.mlm())
    told = "there is no document in it (is the path, the column or the split right?)"
    refused("prepare", f"recipe.yaml:{line_of('corpus.txt')}: data.train: {told}")
    assert unfinished(cache) == []


def test_an_empty_side_of_the_data_is_told(workspace):
    Path("empty.txt").write_text("")
    support.write(support.mlm())
    there_is_none = "there is no document in it (is the path, the column or the split right?)"
    assert told_by_check("data.validation={kind: text, path: empty.txt}") == [
        f"'data.validation={{kind: text, path: empty.txt}}': data.validation.path: {there_is_none}"
    ]
    assert told_by_check("data.validation.fraction=1e-9") == [
        "'data.validation.fraction=1e-9': data.validation.fraction: "
        "holds out 0 of 120 documents: nothing is left for one side (change the fraction)"
    ]


def test_a_missing_label_column_is_refused(workspace):
    Path("corpus.jsonl").write_text('{"text": "a b", "label": "x"}\n{"text": "c d", "class": "y"}\n')
    support.write(support.classification())
    told = "corpus.jsonl:2: data.train.label: no column 'label' (there are: text, class)"
    refused("prepare", f"{told} {OR_SKIP}")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ('{"text": 3, "label": "x"}', "data.train.text: column 'text' is no text but int"),
        ('{"text": "c", "label": null}', "data.train.label: column 'label' is empty"),
        ("[1]", "should be a JSON object, not list"),
        ('{"text": ', "not valid JSON: Expecting value at column 10"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_with_its_line(workspace, row, told):
    Path("corpus.jsonl").write_text('{"text": "a b", "label": "x"}\n' + row + "\n")
    support.write(support.classification())
    assert told_by_check() == [f"corpus.jsonl:2: {told} {OR_SKIP}"]


def test_a_line_that_is_not_utf8_is_refused(workspace, cache):
    Path("corpus.txt").write_bytes(b"one line\nanother\nd\xe9j\xe0 vu\n")
    support.write(support.mlm())
    advice = "convert the file, for example by iconv -f latin1 -t utf-8"
    refused("prepare", f"corpus.txt:3: not UTF-8 (byte 0xe9 at 2): {advice} {OR_SKIP}")
    assert unfinished(cache) == []


def test_a_source_of_a_mixture_without_a_document_is_refused(workspace, cache):
    Path("empty.txt").write_text("\n")
    sources = {
        "good": {"kind": "text", "path": "corpus.txt", "document": "line"},
        "bare": {"kind": "text", "path": "empty.txt"},
    }
    mixture = {"kind": "mixture", "sources": sources, "weights": {"good": 1, "bare": 1}}
    support.write(support.mlm(data__train=mixture))
    told = "there is no document in it (is the path, the column or the split right?)"
    refused("prepare", f"recipe.yaml:{line_of('empty.txt')}: data.train.sources.bare: {told}")
    assert unfinished(cache) == []


# The batch


def test_a_global_batch_that_the_ranks_cannot_share_is_refused(workspace):
    support.write(support.mlm())
    told = "12 samples cannot be shared by 13 ranks (at least one each: fewer ranks, or a larger batch)"
    refused("plan", f"recipe.yaml:{line_of('global_batch')}: train.global_batch: {told}", "--ranks", 13)


def test_a_budget_below_one_sample_is_refused(workspace):
    support.write(support.mlm())
    told = "31 is below one sample (data.max_length is 32: at least that, or shorter samples)"
    refused("plan", f"'train.max_tokens=31': train.max_tokens: {told}", "train.max_tokens=31")


# The layout


@pytest.mark.parametrize(
    ("strategy", "ranks", "key", "told"),
    [
        ({"kind": "fsdp", "shard": "hybrid", "replicas": 2}, 3, "strategy",
         "3 ranks are not 2 replicas x shards (a multiple of 2 is)"),
        ({"kind": "fsdp", "tensor_parallel": 4}, 4, "strategy.tensor_parallel",
         "4 does not divide the 2 heads (these do: 1, 2)"),
        ({"kind": "fsdp", "shard": "hybrid"}, 4, "strategy",
         "replicas belongs to shard: hybrid, which needs it (such as 2)"),
        ({"kind": "deepspeed", "extra": {"gradient_clipping": 0.5}}, 2, "strategy.extra.gradient_clipping",
         "is decided by optimizer.clip (set it there)"),
    ],
    ids=["mesh", "heads", "replicas", "extra"],
)  # fmt: skip
def test_a_strategy_that_cannot_be_is_refused(workspace, strategy, ranks, key, told):
    support.write(support.mlm(strategy=strategy))
    line = line_of(
        {"strategy": "strategy:", "strategy.tensor_parallel": "tensor_parallel:"}.get(key, "gradient_clipping:")
    )
    refused("run", f"recipe.yaml:{line}: {key}: {told}", "--ranks", ranks)


def test_fp16_without_a_loss_scale_is_refused(workspace):
    support.write(support.mlm(train__precision="fp16", train__loss_scale="none"))
    told = "fp16 without a loss scale: gradients below 6e-8 would be lost (leave it out, or take precision: bf16)"
    refused("run", f"recipe.yaml:{line_of('loss_scale')}: train.loss_scale: {told}")


# The run folder


def test_a_run_folder_of_another_recipe_is_refused(trained):
    told = "seed: 3 there, 4 here; optimizer.lr: 0.001 there, 0.002 here (choose another name, or move it away)"
    refused("plan", f"{RUN}: made by another recipe: {told}", "seed=4", "optimizer.lr=2e-3")


def test_data_that_changed_since_is_refused(trained):
    with Path("corpus.txt").open("a") as file:
        file.write("one more line\n")
    why = "its source has changed since, or another version of the launcher prepared it"
    told = f"was trained on other prepared data: {why} (choose another name)"
    assert told_by_check() == [f"recipe.yaml:{line_of('data:')}: data: {RUN} {told}"]


def test_a_file_missing_from_a_checkpoint_is_passed_over(trained):
    next(FOURTH.glob("*.safetensors")).unlink()
    before = support.tree(RUN)
    assert run_setup.validate(load.recipe("recipe.yaml"), load.cluster("local").value, 1).resume.path == SECOND
    assert support.tree(RUN) == before


def test_checkpoints_that_are_all_damaged_are_refused(trained):
    advice = "a resume uses the checkpoint before it; --checkpoint STEP names another one"
    file = next(FOURTH.glob("*.safetensors"))
    file.unlink()
    (SECOND / "state.json").write_text("{")
    size = json.loads((SECOND / "COMPLETE").read_text())["files"]["state.json"][0]
    assert told_by_check() == [
        f"{file}: missing from the checkpoint ({advice})",
        f"{SECOND}/state.json: damaged: its content is not what was written: 1 bytes instead of {size} ({advice})",
        f"{RUN}/checkpoints: every checkpoint is damaged (restore one of them, or choose another name)",
    ]


def test_a_checkpoint_of_a_newer_launcher_is_refused(trained):
    (FOURTH / "COMPLETE").write_text('{"format": 2}')
    what = "a newer version of the launcher wrote it, in format 2, and this one reads up to 1"
    refused("run", f"{FOURTH}: {what} (install that version, or move the folder away)")


def test_metrics_damaged_in_the_middle_are_refused(trained):
    file = RUN / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], lines[1][: len(lines[1]) // 2] + b"\n", *lines[2:]]))
    refused("run", f"{file}:2: damaged: not a JSON object (take this line out, or move the file away)")


def test_a_damaged_tokenizer_is_written_again_at_a_resume(trained):
    original, damaged = support.tree(RUN / "tokenizer"), RUN / "tokenizer/tokenizer.json"
    for damage in (lambda: damaged.write_text(""), damaged.unlink, lambda: shutil.rmtree(RUN / "tokenizer")):
        damage()
        run_setup.create(run_setup.validate(load.recipe("recipe.yaml"), load.cluster("local").value, 1)).release()
        assert support.tree(RUN / "tokenizer") == original
    assert list(RUN.glob("*.partial")) == []


def test_a_damaged_model_configuration_is_written_again_at_a_resume(trained):
    from torch import device

    original, damaged = support.tree(RUN / "model"), RUN / "model/config.json"
    rank = SimpleNamespace(rank=0, device=device("cpu"))
    (RUN / ".model.partial").mkdir()  # of a start that was killed, with a file that is not of this model
    (RUN / ".model.partial/other.json").touch()
    for damage in (lambda: damaged.write_text(""), damaged.unlink, lambda: shutil.rmtree(RUN / "model")):
        damage()
        build._model(run_setup.load(RUN), rank, 2, weights=False)
        assert support.tree(RUN / "model") == original


def test_a_run_folder_in_use_by_another_process_is_refused(trained):
    shutil.rmtree(FOURTH)
    with lease.claim(RUN, ".writer") as held:
        told = f"{RUN}: a run is writing into it now, {held.holder} (wait for it, or choose another name)"
        assert support.launcher("run", "recipe.yaml", code=2).stderr.splitlines()[-1:] == [told]


@pytest.fixture
def small_disk(workspace):
    """A file system of 1 MiB for the runs."""
    disk = workspace / "runs"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip() if done else 'there is no mount'}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_without_room_for_the_first_checkpoint_is_refused(small_disk):
    support.write(support.mlm(model__hidden_size=64, model__intermediate_size=128))
    before = support.tree(".")
    done = support.launcher("run", "recipe.yaml", code=2)
    needed = r"recipe\.yaml:1: checkpoint: a checkpoint takes 1\.\d MiB, 1\.0 MiB are free at runs/tiny/checkpoints"
    assert re.fullmatch(needed + r" \(make room there\)\n", done.stderr)
    assert support.tree(".") == before
    assert list(small_disk.iterdir()) == []


def test_a_run_goes_on_while_its_disk_is_full_and_saves_when_there_is_room(tmp_path, monkeypatch):
    """Adds 20 s: the whole way alone shows what a user reads, and that a run waits for room with its last state."""
    monkeypatch.chdir(tmp_path)
    file = support.write(support.small(model__hidden=[20_000], checkpoint={"every": 2}, evaluate={"metric": "mse"}))
    log, checkpoints = Path("runs/tiny/logs/rank0.log"), Path("runs/tiny/checkpoints")
    with support.tmpfs(Path("runs"), "1800k") as resize:
        process = support.start("run", file, "--ranks", 2)
        support.wait_for(lambda: "; it is tried again" in (log.read_text() if log.exists() else ""), 240)
        assert [path.name for path in checkpoints.iterdir()] == [SECOND.name]
        refused = support.launcher("run", file, "--ranks", 2, code=2)
        assert re.search(r"checkpoint: a checkpoint takes 1\.\d MiB|trained", refused.stderr), refused.stderr
        resize("8m")
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, out
        told = (
            r"warning: the checkpoint of step 4 could not be saved: the disk of runs/tiny/checkpoints is full: about "
            r"1\.\d MiB are needed, [\d.]+ KiB are free \(make room there\); the last good one is of step 2; training "
        )
        assert len(re.findall(told, out)) == 1, out
        assert [path.name for path in sorted(checkpoints.iterdir())] == [SECOND.name, "step-00000006"]
    assert not Path("runs/tiny").exists()


def test_what_a_killed_save_left_counts_as_free_and_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = support.write(support.small(model__hidden=[20_000]))
    with support.tmpfs(Path("runs"), "1800k"):
        left = RUN / "checkpoints/.step-00000002.0123abcd.partial"
        left.mkdir(parents=True)
        (left / "shard").write_bytes(bytes(2**20))
        done = support.launcher("run", file)
        assert f"note: {left}: incomplete and ignored" in done.stderr
        assert [path.name for path in left.parent.iterdir()] == ["step-00000006"]


# What a kill leaves behind


def gone_on(original: Path, saved: dict[str, bytes]) -> str:
    """The run went on from the second step to its end, to the same numbers; what was saved is as it was. Its words."""
    done = support.launcher("run", "recipe.yaml")
    assert "tiny in runs/tiny, resumes from step 2" in done.stdout + done.stderr
    now = support.tree(".")
    assert {file: now[file] for file in saved} == saved
    assert (FOURTH / COMPLETE).is_file()
    untimed = [
        {**record, "seconds": 0, "waited": 0, "tokens_per_second": 0, "goodput": 0}
        for run in (RUN, original / RUN)
        for record in support.steps(run).values()
    ]
    assert untimed[:4] == untimed[4:]
    return done.stdout + done.stderr


def test_a_half_written_checkpoint_is_ignored_with_a_note(trained, original):
    (FOURTH / COMPLETE).unlink()
    (FOURTH / "state.json").write_text('{"step": 4')
    aside = FOURTH.with_name(".step-00000003.partial")
    aside.mkdir()
    (aside / "state.json").write_text("{")
    words = gone_on(original, support.tree(SECOND))
    for left in (aside, FOURTH):
        assert f"note: {left}: incomplete and ignored (the next save replaces it)" in words
    assert not aside.exists()


def test_metrics_cut_in_the_middle_of_a_line_are_mended_and_told(trained, original):
    shutil.rmtree(FOURTH)
    file = RUN / "metrics.jsonl"
    whole, cut = file.read_bytes().splitlines(keepends=True)[:3], b'{"step": 4, "lo'
    file.write_bytes(b"".join(whole) + cut)
    words = gone_on(original, support.tree(SECOND))
    assert f"note: {file}: its last line was cut in the middle: {len(cut)} bytes taken away" in words
    assert file.read_bytes().startswith(b"".join(whole) + b'{"step": 3, "loss"')
    assert [record["step"] for record in support.records(RUN)] == [1, 2, 3, 3, 4, 4]
