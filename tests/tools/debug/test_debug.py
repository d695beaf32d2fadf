"""`launcher debug`: one process in which breakpoint() works; run folders are not touched."""

import os
import re
import sys
from pathlib import Path

import pexpect
import pytest
import support
from typer.testing import CliRunner

from launcher import cli

FAST = {"train__max_tokens": None, "optimizer__lr": 0.03}


@pytest.fixture(autouse=True)
def in_a_folder(workspace):
    """Use one thread, which is faster for a model of some thousand parameters."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    yield workspace
    os.sched_setaffinity(0, allowed)


def debug(*arguments, code=0, **changes):
    """The output of the command, run in this process."""
    support.write(support.mlm(**changes))
    done = CliRunner().invoke(cli.app, ["debug", "recipe.yaml", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def losses(output):
    return [float(loss) for loss in re.findall(r"^step +\d+  loss (\S+)", output, re.MULTILINE)]


def test_the_first_batch_is_shown_with_its_masked_tokens_marked_and_its_shapes():
    output = debug("--show", 12)
    samples = re.split(r"^sample \d+ +", output.partition("micro-batch")[0], flags=re.MULTILINE)[1:]
    assert len(samples) == 12
    assert all(sample.startswith("[CLS] ") for sample in samples)
    marks = [mark for sample in samples for mark in re.findall(r"(\S+)→(\S+)", sample)]
    assert len(marks) > 12
    assert [now for _, now in marks].count("[MASK]") > len(marks) / 2
    assert not {"[CLS]", "[SEP]", "[PAD]", "[MASK]"} & {was for was, _ in marks}
    assert re.search(r"^input_ids +\(3, 32\) +torch\.int64 ", output, re.MULTILINE)
    assert "BertForMaskedLM on cpu" in output
    assert "global batch 12 = 1 rank x 4 micro-batches x 3 samples" in output


def test_a_marked_token_is_highlighted_on_a_terminal(printed):
    from launcher.tools.debug import debug as tool

    support.write(support.mlm())
    plain, styled = (
        "\n".join(
            printed(lambda console: tool.debug("recipe.yaml", [], tool.Session(1, samples=1), console), 200, styled)
        )
        for styled in (False, True)
    )
    (mark, *_) = re.findall(r"\S+→\S+", plain)
    assert f"\x1b[1;7m{mark}\x1b[0m" in styled


def test_output_fits_eighty_columns(printed):
    from launcher.tools.debug import debug as tool

    support.write(support.mlm())
    lines = printed(lambda console: tool.debug("recipe.yaml", [], tool.Session(2), console))
    assert all(len(line.rstrip()) <= 80 for line in lines if not line.startswith("note: "))
    assert not any("…" in line for line in lines if "  torch." not in line)


def test_some_steps_are_trained_and_printed():
    assert len(losses(debug())) == 3
    assert len(losses(debug("--steps", 2))) == 2
    assert len(losses(debug("--steps", 50, train__steps=4))) == 4


def test_overrides_apply():
    output = debug(
        "--steps", 1, "--show", 0, "train.global_batch=5", "train.max_tokens=null", "train.padding_free=false"
    )
    assert re.search(r"^input_ids +\(5, \d+\)", output, re.MULTILINE)
    assert "sample 0" not in output


def test_the_same_recipe_is_debugged_the_same_way():
    assert losses(debug()) == losses(debug())


def test_one_batch_is_learnt_by_heart_where_it_can_be():
    output = debug("--overfit", "--steps", 60, **FAST)
    found = losses(output)
    assert "learnt by heart: the loss of this one batch fell from" in output
    assert found[-1] < 0.1 * found[0]
    assert len(set(re.findall(r"data (\S{16})$", output, re.MULTILINE))) == 1, "it is the same batch each time"


def test_one_batch_that_is_not_learnt_is_a_failure_with_advice():
    output = " ".join(debug("--overfit", "--steps", 3, code=1, optimizer__lr=1e-9).split())
    assert "not learnt: the loss of this one batch went from" in output
    assert "in 3 steps: more --steps, another lr, or something between data and loss is wrong" in output


def test_overfitting_takes_the_number_of_steps_of_the_option():
    output = debug("--overfit", "--steps", 9, code=1, train__steps=2, schedule={"kind": "linear"}, optimizer__lr=1e-9)
    rates = re.findall(r"lr (\S+)", output.partition("step   1")[2])
    assert len(losses(output)) == 9
    assert set(rates[:9]) == {"1.00e-09"}, "the schedule is put aside"


def test_no_run_folder_is_created_or_changed():
    before = set(Path().iterdir())
    debug("--steps", 1)
    assert set(Path().iterdir()) - before == {Path("recipe.yaml")}
    run = Path("runs/tiny")
    (run / "checkpoints" / "step-00000002").mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n', encoding="utf-8")
    kept = support.tree("runs")
    debug("--steps", 1)
    assert support.tree("runs") == kept
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "metrics.jsonl"]


def test_a_run_that_is_called_debug_is_not_in_the_way():
    from launcher.config import load

    folder = Path("runs/debug")
    folder.mkdir(parents=True)
    load.dump(load.recipe(support.write(support.mlm("debug", seed=9))).value, folder / "recipe.yaml")
    (folder / "metrics.jsonl").touch()
    assert losses(debug("--steps", 1))


PAUSED = """
from typing import Literal

import torch

from launcher.tasks import mlm


class Config(mlm.Config):
    kind: Literal["mine.paused"] = "mine.paused"


class Task(mlm.Task):
    def loss(self, model, batch):
        if model.training and torch.is_grad_enabled():  # the model is tried without gradients before
            breakpoint()
        return super().loss(model, batch)
"""


def test_a_breakpoint_in_a_task_of_ones_own_stops_there_and_goes_on(workspace):
    (workspace / "mine").mkdir()
    (workspace / "mine" / "paused.py").write_text(PAUSED, encoding="utf-8")
    task = {"kind": "mine.paused", "samples": "documents"}
    support.write(support.mlm(task=task, train__max_tokens=None))
    command = ["-m", "launcher", "debug", "recipe.yaml", "--steps", "2", "train.padding_free=false"]
    child = pexpect.spawn(sys.executable, command, encoding="utf-8", timeout=240, dimensions=(40, 120))
    for step in (1, 2):
        child.expect_exact("return super().loss(model, batch)")
        child.expect_exact("(Pdb)")
        child.sendline('p tuple(batch["inputs"]["input_ids"].shape)')
        child.expect_exact("(12, 32)")
        child.expect_exact("(Pdb)")
        child.sendline("p type(self).__module__, model.training")
        child.expect_exact("('mine.paused', True)")
        child.expect_exact("(Pdb)")
        child.sendline("continue")
        child.expect(rf"step +{step}  loss \d\.\d+")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert not Path("runs").exists()


def test_the_users_temporary_folder_is_checked(monkeypatch):
    file = support.write(support.small())
    monkeypatch.setenv("TMPDIR", "/nowhere")
    told = "TMPDIR: /nowhere does not exist (create it, or set TMPDIR to another folder)"
    assert support.launcher("debug", file, code=2).stderr.splitlines() == [told]
