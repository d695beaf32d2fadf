"""The contract of every scheduler. A new kind is covered by being there."""

import subprocess
from pathlib import Path

import pytest
import support
from pydantic import ValidationError

from launcher.config import kinds, load, plugins
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.types import SchedulerConfig
from launcher.plan.plan import Plan
from launcher.schedulers import JobRequest, RenderedJob, Scheduler

REQUIRED = {"ssh": {"hosts": ["a", "b"]}}
"""Options that a kind cannot be without."""
PLAN = Plan(
    name="a", folder="runs/a b", prepared="p", nodes=1, devices_per_node=3, ranks=3, tensor_parallel=1,
    device="cpu", threads=2, strategy="ddp", precision="fp32", global_batch=6, micro_batches=1, micro_samples=2,
    steps=9, epochs=None, samples=None, tokens=None, model="m", parameters=1, memory={}, memory_per_device=1,
    checkpoint_bytes=1, checkpoints_kept=1, free_disk=1, resume_from=None, max_restarts=4, command="c", notes=[],
)  # fmt: skip


@pytest.fixture(params=kinds.available("schedulers"))
def kind(request):
    return request.param


@pytest.fixture
def cluster(kind):
    keys = {"kind": kind, "device": "cpu", "devices_per_node": 3, "env": {"WORD": "it's $(here)"}}
    options = {kind: REQUIRED[kind]} if kind in REQUIRED else {}
    return Cluster.model_validate({**keys, **options})


@pytest.fixture
def scheduler(cluster):
    return plugins.scheduler(cluster.scheduler)


@pytest.fixture
def request_(cluster, tmp_path):
    return JobRequest(PLAN, cluster, tmp_path, tmp_path / "cache")


def test_there_are_these():
    assert kinds.available("schedulers") == ["local", "slurm", "ssh"]


def test_its_configuration_has_the_name_of_its_module_as_kind(kind, cluster):
    module = kinds.module("schedulers", kind)
    assert issubclass(module.Config, SchedulerConfig) and issubclass(module.Scheduler, Scheduler)
    assert module.Config.model_fields["kind"].default == kind == cluster.scheduler.kind
    with pytest.raises(ValidationError, match=r"unknown key \("):
        module.Config.model_validate({"kind": kind, **REQUIRED.get(kind, {}), "no_such_key": 1})


def test_a_profile_is_stored_and_read_again(cluster, tmp_path):
    load.dump(cluster, tmp_path / "cluster.yaml")
    again = load.stored_cluster(tmp_path / "cluster.yaml").value
    assert again == cluster and again.scheduler == cluster.scheduler


def test_rendering_has_no_side_effects_and_its_printed_form_is_stable(scheduler, request_, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"rendering starts {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    job = scheduler.render(request_)
    assert isinstance(job, RenderedJob) and str(job) == job.text == str(scheduler.render(request_))
    assert job == scheduler.render(request_)
    if scheduler.queued:
        assert "runs/a b" in job.text and job.text.endswith("\n")
    else:
        assert not job.text  # `launcher submit` alone prints it
    assert job.file is None or job.file.is_relative_to(request_.run_folder)
    assert support.tree(tmp_path) == {}


def test_a_rendered_job_can_be_submitted_to_a_scheduler_of_the_same_options(scheduler, cluster, request_):
    assert plugins.scheduler(cluster.scheduler).render(request_) == scheduler.render(request_)


def test_an_unknown_job_is_no_job_or_one_sentence(scheduler, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        assert scheduler.state("99999", Path("runs/none")) is None
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    with pytest.raises(UserError) as refused:
        scheduler.cancel(["99999"])
    assert len(str(refused.value).splitlines()) == 1


def test_its_notes_are_sentences(scheduler):
    assert all(isinstance(note, str) and "\n" not in note for note in scheduler.notes())
