"""Tables for a terminal of 80 columns."""

import pytest

from launcher.plan.facts import Facts
from launcher.plan.plan import Plan
from launcher.tools import tables

CACHE = "/home/somebody/.cache/launcher/prepared/6435b5a27fc846ed80ef12782017ba58"


@pytest.fixture
def plan():
    """A function that returns a plan with large numbers and long names, and other values where they are passed."""

    def make(**given):
        known = {
            "name": "bert-base-mlm-of-the-third-attempt", "folder": "runs/bert-base-mlm-of-the-third-attempt",
            "prepared": CACHE, "nodes": 1, "ranks": 8, "tensor_parallel": 1, "device": "cuda", "threads": 4,
            "strategy": "ddp", "precision": "bf16", "global_batch": 2048, "micro_batches": 8, "micro_samples": 32,
            "steps": 100_000, "epochs": 3.21, "samples": 204_800_000, "tokens": 26_214_400_000,
            "model": "BertForMaskedLM", "parameters": 109_514_298, "memory": {"weights": 2**29, "gradients": 2**29,
            "optimizer": 2**30, "activations": 5 * 2**30}, "memory_per_device": 80 * 2**30,
            "checkpoint_bytes": 1_314_171_576, "checkpoints_kept": 2, "free_disk": 3 * 2**40, "resume_from": 2000,
            "max_restarts": 0,
            "command": "launcher run recipes/bert-base-mlm.yaml --ranks 8 train.max_tokens=8192", "notes": [],
        }  # fmt: skip
        return Plan.model_validate({**known, **given})

    return make


@pytest.fixture
def rows(printed):
    """A function that returns the rows of a plan by name, with broken lines joined."""

    def make(made, width=80):
        found, last = {}, ""
        for line in printed(lambda console: tables.print_plan(made, console), width):
            assert len(line) <= width or line.startswith("start ")  # one line, to be copied whole
            last = line[:14].strip() or last
            found[last] = f"{found.get(last, '')} {line[14:].strip()}".strip()
        return found

    return make


def test_a_plan_fits_eighty_columns_and_loses_nothing(plan, rows):
    told = rows(plan())
    assert told["run"].endswith("runs/bert-base-mlm-of-the-third-attempt, resumes from step 2000")
    assert told["ranks"] == "8 ranks on cuda, ddp, bf16"
    assert told["global batch"] == "2048 = 8 ranks x 8 micro-batches x 32 samples"
    assert told["steps"] == "100,000"
    assert told["samples"] == "204,800,000 (3.21 epochs)"
    assert told["tokens"] == "26,214,400,000"
    assert told["model"] == "BertForMaskedLM, 109,514,298 parameters"
    assert told["memory"].startswith("about 7.0 GiB of 80.0 GiB a device (estimate: weights 512.0 MiB, ")
    assert told["checkpoint"].startswith("1.2 GiB")
    assert told["checkpoint"].endswith("3.0 TiB free")
    assert told["data"].replace(" ", "") == CACHE
    assert told["start"] == plan().command


def test_values_unknown_before_preparation_are_marked(plan, rows):
    told = rows(plan(steps=None, samples=None, tokens=None, epochs=3.0, prepared=None, resume_from=None))
    assert [told[name] for name in ("steps", "samples", "tokens")] == ["known after `launcher prepare`"] * 3
    assert told["data"] == "not prepared yet"
    assert "resumes" not in told["run"]


def test_a_plan_for_the_cpu_has_its_threads(plan, rows):
    assert rows(plan(device="cpu", ranks=2, threads=3))["ranks"].startswith("2 ranks on cpu (3 threads each), ")


def test_notes_and_paths_are_not_markup(plan, printed):
    made = plan(notes=["one [note] of many words " * 5, "[bold]another[/]"], command="launcher run [a].yaml")
    lines = printed(lambda console: tables.print_plan(made, console))
    assert lines[-2:] == [f"note: {note}" for note in made.notes]
    assert any("launcher run [a].yaml" in line for line in lines)


def facts(**given):
    known = {
        "digest": "", "vocab_size": 30_522, "pad_token_id": 0, "mask_token_id": 4, "special_ids": [], "labels": [],
        "longest": 128, "samples": {"train": 1_000_000, "validation": 2000},
        "tokens": {"train": 120_000_000, "validation": 201_000}, "baseline": {},
    }  # fmt: skip
    return Facts.model_validate({**known, **given})


def test_a_prepared_folder_has_a_row_per_side(printed):
    lines = printed(lambda console: tables.print_facts(facts(), CACHE, console))
    assert [line.split() for line in lines[:3]] == [
        ["side", "samples", "tokens", "a", "sample"],
        ["train", "1,000,000", "120,000,000", "120.0"],
        ["validation", "2,000", "201,000", "100.5"],
    ]
    assert lines[3] == f"vocabulary 30,522, longest sample 128; {CACHE}"


def test_labels_are_counted(printed):
    lines = printed(lambda console: tables.print_facts(facts(labels=["a", "b", "c"]), CACHE, console))
    assert lines[3].startswith("vocabulary 30,522, 3 labels, ")


LABELS = ["sport", "a [label] in brackets", "of many words " * 9, "x" * 90, "a/b"]


def test_metrics_are_printed_beside_the_baseline_and_then_by_class(printed):
    values = {"step": 9, "eval/loss": 1.25, "eval/perplexity": 4151.2, "eval/precision": 0.5, "eval/f1": 0.25}
    values |= {f"eval/{s}/{label}": n / 8 for s in ("precision", "f1") for n, label in enumerate(LABELS)}
    lines = printed(lambda console: tables.print_metrics(values, {"majority_class": 0.3}, console))
    assert all(len(line) <= 80 for line in lines)
    assert [line.split() for line in lines[:5]] == [
        ["loss", "1.2500"],
        ["perplexity", "4151.2000"],
        ["precision", "0.5000"],
        ["f1", "0.2500"],
        ["majority", "class", "0.3000"],
    ]
    assert lines[5].split() == ["class", "precision", "f1"]
    assert lines[6].split() == ["sport", "0.0000", "0.0000"]
    assert lines[7].split() == ["a", "[label]", "in", "brackets", "0.1250", "0.1250"]
    assert lines[-1].split() == ["a/b", "0.5000", "0.5000"]
    assert sum(line.count("x") for line in lines) == 90 + 1  # and that of perplexity


def test_metrics_without_classes_are_one_table(printed):
    lines = printed(lambda console: tables.print_metrics({"step": 3, "eval/loss": 1.0}, {}, console))
    assert [line.split() for line in lines] == [["loss", "1.0000"]]
