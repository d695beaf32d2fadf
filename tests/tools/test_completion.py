"""Completion of a command line, by the protocol that a shell speaks with the command, and in a real bash."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
import support

from launcher import cli
from launcher.config import kinds, load


@pytest.fixture
def complete(workspace, monkeypatch, capsys):
    """The candidates for the last word, as bash divides the words."""

    def candidates(*words):
        monkeypatch.setenv("_LAUNCHER_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["launcher", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        monkeypatch.setattr(sys, "argv", ["launcher"])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
        return capsys.readouterr().out.split()

    support.write(support.mlm())
    return candidates


def test_commands_recipes_and_profiles(complete):
    assert {"plan", "predict", "prepare"} == set(complete("p")) - {"parity"}
    assert complete("plan", "quick") == ["quickstart-finetune", "quickstart-pretrain"]
    assert complete("plan", "rec") == ["recipe.yaml"]
    assert set(complete("plan", "")) == {"recipe.yaml", *(file.stem for file in load.shipped("recipes"))}
    assert complete("plan", "recipe.yaml", "--cluster", "slurm-h") == ["slurm-h100-8x"]
    Path("conf").mkdir()
    support.write(support.mlm(), "conf/mine.yml")
    assert complete("run", "conf/") == ["conf/mine.yml"]


def test_runs_and_their_checkpoints(complete):
    for run in ("runs/one", "runs/two", "elsewhere/one"):
        Path(run).mkdir(parents=True)
        Path(run, "recipe.yaml").touch()
    Path("runs/empty").mkdir()
    for step in (2, 10):
        folder = Path(f"runs/one/checkpoints/step-{step:08}")
        folder.mkdir(parents=True)
        (folder / "COMPLETE").touch()
    Path("runs/one/checkpoints/step-00000012").mkdir()
    Path("runs/one/checkpoints/step-mine").mkdir()
    Path("runs/one/checkpoints/step-mine/COMPLETE").touch()
    assert complete("status", "") == ["runs/one", "runs/two"]
    assert complete("predict", "runs/o") == ["runs/one"]
    assert complete("compare", "runs/one", "elsewhere/") == ["elsewhere/one"]
    assert complete("evaluate", "runs/one", "--checkpoint", "") == ["latest", "best", "2", "10"]


def test_keys_section_by_section(complete):
    top = complete("run", "recipe.yaml", "")
    assert {"name=", "seed=", "train.", "optimizer.", "optimizer=", "cluster."} <= set(top)
    assert not any(word.startswith("train.") and word != "train." for word in top)
    assert "train.global_batch=" in complete("run", "recipe.yaml", "train.g")
    assert "train.spike." in complete("run", "recipe.yaml", "train.s")
    assert complete("run", "recipe.yaml", "nothing") == []


def test_a_section_without_a_rival_comes_with_its_keys_so_that_the_shell_adds_no_space(complete):
    assert {"checkpoint.every=", "checkpoint.keep="} <= set(complete("run", "recipe.yaml", "check"))


def test_a_key_without_a_rival_comes_with_its_values(complete):
    assert complete("run", "recipe.yaml", "optimizer.lr") == ["optimizer.lr=", "optimizer.lr=0.001"]
    assert complete("run", "recipe.yaml", "data.ded") == [
        "data.deduplicate=", "data.deduplicate=true", "data.deduplicate=false",
    ]  # fmt: skip


def test_values_after_the_sign_which_bash_makes_a_word_of_its_own(complete):
    strategies = kinds.available("strategies")
    assert complete("run", "recipe.yaml", "strategy", "=") == strategies
    assert complete("run", "recipe.yaml", "strategy", "=", "d") == ["ddp", "deepspeed"]
    assert complete("run", "recipe.yaml", "optimizer.kind", "=") == kinds.available("optimizers")
    assert complete("run", "recipe.yaml", "data.train.kind", "=", "j") == ["jsonl"]
    assert complete("run", "recipe.yaml", "train.precision", "=", "bf") == ["bf16"]


def test_the_keys_are_those_of_the_kind_that_the_file_or_an_override_names(complete):
    assert "optimizer.ns_steps=" not in complete("run", "recipe.yaml", "optimizer.")
    assert "optimizer.ns_steps=" in complete("run", "recipe.yaml", "optimizer.kind", "=", "muon", "optimizer.")
    assert "optimizer.ns_steps=" in complete("run", "recipe.yaml", "optimizer", "=", "muon", "optimizer.")
    assert {"task.mask=", "task.mask_rate=", "task.mask_rate."} == set(complete("run", "recipe.yaml", "task.m"))
    assert "data.validation.stratify=" in complete("run", "recipe.yaml", "data.validation.")
    assert "model.hidden_size=16" in complete("run", "recipe.yaml", "model.hidden_s")


def test_keys_of_the_profile(complete):
    assert "cluster.slurm." not in complete("run", "recipe.yaml", "cluster.")
    slurm = complete("submit", "recipe.yaml", "--cluster", "slurm-h100-8x", "cluster.slurm.")
    assert {"cluster.slurm.time=", "cluster.slurm.account="} <= set(slurm)
    assert "cluster.kind=" in complete("submit", "recipe.yaml", "cluster.")
    assert complete("run", "recipe.yaml", "cluster.kind", "=") == kinds.available("schedulers")


@pytest.mark.parametrize("recipe", ["missing.yaml", "broken.yaml", "wrong.yaml"])
def test_a_recipe_that_is_no_recipe_still_has_the_keys_of_every_recipe(complete, recipe):
    Path("broken.yaml").write_text("a: [", encoding="utf-8")
    Path("wrong.yaml").write_text("train: 3\noptimizer: {kind: 7}\nmodel: [1]\n", encoding="utf-8")
    assert "train.global_batch=" in complete("run", recipe, "train.g")


def test_no_module_of_ones_own_is_imported(complete):
    support.plugin("loud", "raise SystemExit('imported')")
    support.write(support.mlm(task={"kind": "own.loud"}))
    assert "optimizer.lr=" in complete("run", "recipe.yaml", "optimizer.")


@pytest.mark.parametrize(("shell", "one"), [("zsh", '"optimizer.lr=0.001"'), ("fish", "optimizer.lr=0.001")])
def test_other_shells_get_whole_words_and_torch_is_not_imported(workspace, shell, one):
    support.write(support.mlm())
    program = (
        "import sys\nfrom launcher import cli\ntry:\n    cli.main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    asks = {
        "_LAUNCHER_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": "launcher run recipe.yaml strategy=ddp optimizer.lr=",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **asks}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert one in done.stdout
    assert not done.stderr


def test_a_real_bash_completes_the_line(workspace, tmp_path):
    """What readline inserts, which the candidates alone do not show. Five seconds."""
    support.write(support.mlm())
    program = tmp_path / "bin" / "launcher"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m launcher "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "> "}
    shell = pexpect.spawn(
        "bash", ["--norc", "--noprofile", "-i"], encoding="utf-8", timeout=120, env=environment, dimensions=(40, 200)
    )
    shell.sendline("bind 'set enable-bracketed-paste off'; bind 'set bell-style none'")
    shell.sendline('eval "$(launcher --show-completion)"; complete -p launcher')
    shell.expect(r"complete -o default -F _launcher_completion launcher")

    def typed(line, shown):
        shell.send(line)
        shell.expect(re.escape(shown))

    typed("launcher run quickstart-f\t", "quickstart-finetune ")
    typed("optimizer.l\tr\t", "optimizer.lr=")
    typed("\t", "0.0005 ")
    typed("strategy=de\t", "deepspeed ")
    shell.sendcontrol("u")
    typed("echo launcher\n", "launcher\r\n")
    shell.sendline("exit")
    shell.expect(pexpect.EOF)
    shell.close()
