"""The batch script as text, compared with golden files, and run by bash with a stand-in for Slurm's commands that logs
their arguments. tests/slurm has the real Slurm."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.config import load
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.plan.plan import Plan
from launcher.schedulers import JobRequest, slurm
from launcher.schedulers import _slurm_script as slurm_script

GOLDEN = Path(__file__).parent / "golden"
RECIPES = [file.stem for file in load.shipped("recipes")]
CLUSTERS = [file.stem for file in load.shipped("cluster") if load.cluster(file).value.kind == "slurm"]
FIRST = "quickstart-pretrain"
HERE, CACHE, PYTHON = Path("/home/me/work"), Path("/home/me/.cache/launcher"), "/home/me/venv/bin/python"
VARIANTS = {
    "array": ("slurm-cpu", (), (0, 1, 2, 5)),
    "elastic": ("slurm-cpu", ("nodes=2:4",), None),
    "elastic-chain-pyxis": (
        "slurm-example",
        (
            "nodes=2:4", "slurm.spares=1", "slurm.requeue=chain",
            "slurm.container={kind: pyxis, image: nvcr.io#nvidia/pytorch:24.01-py3, mounts: [/datasets:/data]}",
        ),
        None,
    ),
    "env-from": ("slurm-cpu", ("slurm.requeue=chain", "env_from=[WANDB_API_KEY, HF_TOKEN]"), None),
    "never": ("slurm-cpu", ("slurm.requeue=never",), None),
}  # fmt: skip
"""Of a profile with these overrides, and these points of an array."""


@pytest.fixture(autouse=True)
def python(monkeypatch):
    monkeypatch.setattr(sys, "executable", PYTHON)


def planned(name, cluster):
    """The part of a plan that a script depends on."""
    return Plan.model_construct(
        name=name, folder=f"runs/{name}", device=cluster.device, devices_per_node=cluster.devices_per_node
    )


def script(recipe, profile, *overrides, points=None):
    cluster = load.cluster(profile, overrides).value
    return rendered(planned(recipe, cluster), cluster, HERE, points=points)


def rendered(plan, cluster, folder, cache=CACHE, config=None, points=None):
    request = JobRequest(plan, cluster, folder, cache, points=points)
    return slurm.Scheduler(config or cluster.scheduler).render(request)


def golden(name, text):
    """The expected text. UPDATE_GOLDEN=1 overwrites it, so that the diff can be read."""
    file = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize("profile", CLUSTERS)
def test_the_script_of_a_profile(profile):
    text = script(FIRST, profile).text
    assert text == golden(f"{profile}.sbatch", text)


def test_variables_are_passed_on_by_their_names():
    """On the command line of sbatch, which has precedence over SBATCH_EXPORT."""
    job = script(FIRST, "slurm-cpu", "env_from=[WANDB_API_KEY, HF_TOKEN]")
    assert job.argv == ("sbatch", "--parsable", "--export=ALL,WANDB_API_KEY,HF_TOKEN", str(job.file))
    assert "--export" not in " ".join(script(FIRST, "slurm-cpu").argv)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_script_of_a_variant(variant):
    profile, overrides, points = VARIANTS[variant]
    text = script(FIRST, profile, *overrides, points=points).text
    assert text == golden(f"{variant}.sbatch", text)


@pytest.mark.parametrize("profile", CLUSTERS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_differ_by_their_names_alone(recipe, profile):
    text = (GOLDEN / f"{profile}.sbatch").read_text(encoding="utf-8")
    assert script(recipe, profile).text == text.replace(FIRST, recipe)


def test_the_commands():
    made = [script(recipe, profile) for profile in CLUSTERS for recipe in RECIPES]
    text = "".join(f"{shlex.join(one.argv)}\n{shlex.join(one.test_argv)}\n" for one in made)
    assert text == golden("argv.txt", text)


def test_the_template_spells_no_file_and_no_variable_of_the_launcher():
    """A name that is changed in Python alone would end the requeues without a word."""
    template = (slurm_script._templates() / slurm_script.TEMPLATE).read_text(encoding="utf-8")
    assert "LAUNCHER_" not in template
    assert [name for name in slurm_script._files().values() if f"/{name}" in template] == []


@pytest.mark.parametrize("name", [*CLUSTERS, *VARIANTS])
def test_bash_reads_it(name):
    subprocess.run(["bash", "-n", GOLDEN / f"{name}.sbatch"], check=True, timeout=20)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-S", "warning", GOLDEN / f"{name}.sbatch"], check=True, timeout=60)


def test_every_recipe_and_every_profile_is_covered():
    assert (len(RECIPES), len(CLUSTERS)) == (22, 4)
    wanted = {*(f"{name}.sbatch" for name in (*CLUSTERS, *VARIANTS)), "argv.txt"}
    assert {file.name for file in GOLDEN.iterdir()} == wanted


# Options of sbatch


def options(**changes):
    profile = {"kind": "slurm", "device": "cuda", "devices_per_node": 4, "memory_per_device": 80, **changes}
    cluster = Cluster.model_validate(profile)
    return slurm_script.sbatch_options(JobRequest(planned("a", cluster), cluster, HERE, CACHE), cluster.scheduler)


def test_the_option_that_requests_devices():
    assert options()["gres"] == options(device="xpu")["gres"] == "gpu:4"
    assert options(slurm={"gres": "gpu:a100:4"})["gres"] == "gpu:a100:4"
    assert options(slurm={"gres": "gpus_per_node"})["gpus-per-node"] == "4"
    assert not {"gres", "gpus-per-node"} & {*options(slurm={"gres": "none"}), *options(device="cpu")}


def test_a_rank_on_the_cpu_gets_a_core():
    assert options(device="cpu")["cpus-per-task"] == "4"
    assert options(device="cpu", slurm={"cpus_per_node": 9})["cpus-per-task"] == "9"
    assert not {"cpus-per-task"} & {*options(), *options(device="cpu", slurm={"exclusive": True})}


def test_nodes_and_spares():
    assert options(nodes=3)["nodes"] == "3" and "no-kill" not in options(nodes=3)
    assert options(nodes="2:4")["nodes"] == "2-4" and "no-kill" in options(nodes="2:4")
    assert options(nodes=3, slurm={"spares": 1})["nodes"] == "3-4" and "no-kill" in options(slurm={"spares": 1})
    assert options(nodes="2:4", slurm={"spares": 2})["nodes"] == "2-6"


@pytest.mark.parametrize(("leave", "asked"), [(1, 1), (20, 5), (60, 15), (120, 60), (300, 240)])
def test_slurms_signal_does_not_come_before_the_deadline(leave, asked):
    assert options(slurm={"leave": leave})["signal"] == f"B:USR1@{asked}"


def test_whether_slurm_itself_may_requeue():
    asked = {
        how: {"requeue", "no-requeue"} & {*options(slurm={"requeue": how})} for how in ("requeue", "chain", "never")
    }
    assert asked == {"requeue": {"requeue"}, "chain": set(), "never": {"no-requeue"}}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("a100&nvlink", '"a100&nvlink"'), ("gpu:2", "gpu:2"), ("a b", '"a b"'), ('say "x"', r'"say \"x\""'), ("", '""'),
        ("back\\slash", r'"back\\slash"'), ("$(x) `y`", '"$(x) `y`"'), ("it's", '"it\'s"'), ("# no", '"# no"'),
    ],
)  # fmt: skip
def test_a_value_of_an_option(value, told):
    assert slurm_script.quote(value) == told


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\x1bb", "a\u2028b"])
def test_a_value_that_a_line_cannot_hold_is_refused(value):
    for quote in (slurm_script.quote, slurm_script.shell):
        with pytest.raises(UserError, match="cannot stand in a batch script"):
            quote(value)


@pytest.mark.parametrize("kind", ["apptainer", "pyxis"])
def test_a_folder_that_a_container_cannot_mount_is_refused(kind):
    profile = load.cluster("slurm-cpu", [f"slurm.container={{kind: {kind}, image: x}}"]).value
    with pytest.raises(
        UserError, match=f"/a,b: a folder with a comma or a colon in its name cannot be mounted by {kind}"
    ):
        rendered(planned("a", profile), profile, Path("/a,b"))


@pytest.mark.parametrize("name", ["100%j", "back\\slash"])
def test_a_folder_that_slurm_reads_as_something_else_is_refused(name):
    profile = load.cluster("slurm-cpu").value
    with pytest.raises(UserError, match="a job's log cannot be here"):
        rendered(planned("a", profile), profile, Path("/home") / name)


# Run by bash

STAND_IN = r"""#!/bin/bash
printf '%s\0' "${0##*/}" "$@" $'\n' >>"$STAND_IN/calls" # at once: others write too
case "${0##*/} $*" in
"scontrol show hostnames") printf '%s\n' $HOSTS ;;
"scontrol show job"*) echo "   PreemptTime=${PREEMPTED:-None} SuspendTime=None" ;;
"scontrol requeue"*) exit "${REQUEUE:-0}" ;;
squeue*%e) echo "${END-2000}" ;;
squeue*%x) echo "${EXCLUDED-}" ;;
squeue*%T) echo "${STATE-RUNNING}" ;;
sbatch*) echo "77;cluster"; env -0 >"$STAND_IN/env-sbatch" ;;
srun*" check "*)
    eval "${LOOK:-:}" || exit 1
    for host in $HOSTS; do [[ " $UNFIT " == *" $host "* ]] || echo "$host"; done ;;
srun*) env -0 >"$STAND_IN/env"; eval "${AGENT:-exit 0}" ;;
esac
"""


class Bash:
    """A rendered script that runs, and its calls of Slurm's commands."""

    def __init__(self, folder, text, *arguments, **environment):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for tool in ("scontrol", "squeue", "sbatch", "srun", "scancel", "module"):
            (folder / "bin" / tool).write_text(STAND_IN)
            (folder / "bin" / tool).chmod(0o755)
        (folder / "job.sbatch").write_text(text)
        slurm_says = {"SLURM_JOB_ID": "12", "SLURM_NNODES": "4", "SLURM_CPUS_PER_TASK": "3", "HOSTS": "a b c d"}
        env = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "STAND_IN": str(folder), **slurm_says, **environment}
        self.process = subprocess.Popen(
            ["bash", folder / "job.sbatch", *arguments],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end(self):
        self.said, self.warned = self.process.communicate(timeout=30)
        return self.process.returncode

    def calls(self, tool):
        """The arguments of each call of a tool."""
        every = (self.folder / "calls").read_bytes().decode().split("\n\0")
        words = [call.split("\0")[:-1] for call in every if call]
        return [call[1:] for call in words if call[0] == tool]

    def environment(self, name="env"):
        return dict(pair.split("=", 1) for pair in (self.folder / name).read_text().split("\0") if pair)


@pytest.fixture
def bash(tmp_path):
    """Renders the script of a run in tmp_path and runs it to its end."""

    def run(*arguments, overrides=(), points=None, wait=True, **environment):
        cluster = load.cluster("slurm-cpu", overrides).value
        made = rendered(planned("run", cluster), cluster, tmp_path, points=points)
        (tmp_path / "runs/run").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs/run-1").mkdir(exist_ok=True)
        ran = Bash(tmp_path / f"bash-{time.monotonic_ns()}", made.text, *arguments, **environment)
        if wait:
            ran.end()
        return ran

    return run


AGAIN = 'mkdir -p "$RUN/jobs/{0}" && printf "{1}" >"$RUN/jobs/{0}/again"; exit {2}'


def agent(start, hosts="", code=75, run="run"):
    """Shell lines of an agent that requests another start."""
    return AGAIN.format(start, hosts, code).replace("$RUN", f"runs/{run}")


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_agent_of_a_node_gets_the_run(bash, inside):
    ran = bash()
    assert (ran.process.returncode, ran.warned) == (0, "")
    assert ran.calls("srun")[1] == [
        "--ntasks=4", "--ntasks-per-node=1", "--cpus-per-task=3", "--kill-on-bad-exit=0", "--wait=120",
        "sh", "-c", 'trap "" USR1; exec "$@"', "agent", PYTHON, "-m", "launcher.launch.node", f"{inside}/runs/run",
        "--batch",
    ]  # fmt: skip
    told = {name: value for name, value in ran.environment().items() if name.startswith("LAUNCHER")}
    assert told == {
        "LAUNCHER_JOB": "12", "LAUNCHER_START": "0", "LAUNCHER_CACHE": str(CACHE), "LAUNCHER_DEADLINE": "1880",
    }  # fmt: skip


@pytest.mark.parametrize("end", ["NONE", "", "N/A"])
def test_a_job_without_an_end_has_no_deadline(bash, inside, end):
    assert "LAUNCHER_DEADLINE" not in bash(END=end, LAUNCHER_DEADLINE="5").environment()


@pytest.mark.parametrize("code", [0, 1, 2, 69, 75])
def test_the_code_of_the_agents_is_the_jobs(bash, inside, code):
    ran = bash(AGENT=f"exit {code}")
    assert ran.process.returncode == code
    assert not any(call[0] == "requeue" for call in ran.calls("scontrol")) and not ran.calls("sbatch")


def test_it_requeues_itself_when_the_agent_says_so(bash, inside):
    ran = bash(AGENT=agent("12-0"))
    assert ran.process.returncode == 75
    assert ran.calls("scontrol") == [["show", "hostnames"], ["requeue", "12"]]
    line = (inside / "runs/run/jobs.jsonl").read_text()
    pattern = r'\{"event":"requeued","job":"12","start":0,"how":"requeue","next":"12","time":\d+\}\n'
    assert re.fullmatch(pattern, line)


@pytest.mark.parametrize(("code", "requeued"), [(75, [["requeue", "12"]]), (0, []), (1, [])])
def test_a_job_that_leaves_within_its_grace_time_comes_back(bash, inside, code, requeued):
    ran = bash(AGENT=f"exit {code}", PREEMPTED="2026-11-22T13:43:28")
    assert [call for call in ran.calls("scontrol") if call[0] == "requeue"] == requeued


def test_the_agents_own_code_counts_where_there_is_one(bash, inside):
    ran = bash(AGENT="mkdir -p runs/run/jobs/12-0; echo 1 >runs/run/jobs/12-0/code; exit 137")
    assert ran.process.returncode == 1


def test_the_reason_of_a_failure_is_the_last_line_of_the_log(bash, inside):
    ran = bash(
        AGENT='mkdir -p runs/run/jobs/12-0; echo "rank 1 failed" >runs/run/jobs/12-0/error; echo noise >&2; exit 1'
    )
    assert (ran.process.returncode, ran.warned) == (1, "noise\nrank 1 failed\n")


SAID = "mkdir -p runs/run/jobs/12-0; touch runs/run/jobs/12-0/verdict-0.json; "


@pytest.mark.parametrize(
    ("said", "code", "requeued"),
    [(SAID, 69, [["requeue", "12"]]), ("", 137, []), (f"{SAID} echo 1 >runs/run/jobs/12-0/code;", 1, [])],
)
def test_where_the_first_agent_was_killed_it_comes_back(bash, inside, said, code, requeued):
    ran = bash(AGENT=f"{said} exit 137")
    assert ran.process.returncode == code
    assert [call for call in ran.calls("scontrol") if call[0] == "requeue"] == requeued


def test_files_of_another_job_with_the_same_id_are_removed(bash, inside):
    left = inside / "runs/run/jobs/12-0"
    left.mkdir(parents=True)
    (left / "again").touch()
    (left / "code").write_text("69\n")
    ran = bash()
    assert ran.process.returncode == 0 and ran.calls("scontrol") == [["show", "hostnames"]] and not left.exists()


def test_a_shell_whose_node_was_taken_for_lost_does_nothing_more(bash, inside):
    ran = bash(AGENT=f"mkdir -p runs/run/jobs/12-0/orphaned; {agent('12-0')}")
    assert ran.process.returncode == 75 and ran.calls("scontrol") == [["show", "hostnames"]]


HELD = ("nodes=2:4",)


@pytest.mark.parametrize(
    ("overrides", "restarts", "rescue"),
    [
        (HELD, 0, "scontrol requeue 12"), ((*HELD, "slurm.max_requeues=3"), 3, "scancel 12"),
        ((*HELD, "slurm.requeue=chain"), 0, "scancel 12"), ((*HELD, "slurm.requeue=never"), 0, "scancel 12"),
        (("slurm.spares=1",), 0, "scontrol requeue 12"),
    ],
)  # fmt: skip
def test_any_node_can_release_a_job_that_survives_lost_nodes(bash, inside, overrides, restarts, rescue):
    ran = bash(overrides=overrides, SLURM_RESTART_COUNT=str(restarts))
    words = ran.calls("srun")[1]
    at = words.index("sh")
    assert words[at + 3 : at + 6] == [f"{inside}/runs/run/jobs/12-{restarts}", rescue, PYTHON]


@pytest.mark.parametrize(
    ("node", "code", "there", "called"),
    [
        (1, 69, (), True), (1, 0, (), False), (1, 75, (), False), (1, 69, ("code",), False), (1, 69, ("left",), False),
        (1, 69, ("orphaned",), False), (0, 69, (), False), (0, 137, (), False),
    ],
)  # fmt: skip
def test_one_node_releases_the_job_where_the_first_node_is_lost(bash, inside, node, code, there, called):
    """Runs the shell around an agent as a node does."""
    words = bash(overrides=HELD).calls("srun")[1]
    task = words[words.index("sh") :][:3]
    (inside / "meeting").mkdir()
    for name in there:
        (inside / "meeting" / name).mkdir()
    env = {**os.environ, "SLURM_NODEID": str(node)}
    rescue = f"touch {inside}/called"
    done = subprocess.run([*task, inside / "meeting", rescue, "sh", "-c", f"exit {code}"], env=env, timeout=20)
    assert done.returncode == code and (inside / "called").exists() == called
    assert (inside / "meeting/left").exists() == (node == 0 or "left" in there)


def test_the_shell_around_an_agent_survives_the_agents_signals(bash, inside):
    words = bash(overrides=HELD).calls("srun")[1]
    task = words[words.index("sh") :][:3]
    told = "trap 'sleep 0.3; exit 75' TERM; kill -USR1 $PPID; kill -TERM $PPID $$; sleep 5"
    env = {**os.environ, "SLURM_NODEID": "0"}
    (inside / "meeting").mkdir()
    done = subprocess.run([*task, inside / "meeting", "false", "bash", "-c", told], env=env, timeout=20, check=False)
    assert done.returncode == 75 and (inside / "meeting/left").exists()


def test_hosts_are_excluded_in_addition_to_earlier_ones(bash, inside):
    ran = bash(AGENT=agent("12-3", "b\\nd\\n", 69), EXCLUDED="x[1-2]", SLURM_RESTART_COUNT="3")
    assert ran.process.returncode == 69
    assert ran.calls("scontrol")[1:] == [["requeue", "12"], ["update", "JobId=12", "ExcNodeList=x[1-2],b,d"]]


@pytest.mark.parametrize("overrides", [(), ("slurm.requeue=chain",)], ids=["refused", "forbidden"])
def test_a_job_follows_where_it_cannot_be_requeued(bash, inside, overrides):
    ran = bash("9", "4", overrides=overrides, AGENT=agent("9-4002", "b\\n"), REQUEUE="1", SLURM_RESTART_COUNT="2")
    assert ran.process.returncode == 75
    script = str(ran.folder / "job.sbatch")
    assert ran.calls("sbatch") == [["--parsable", "--dependency=afterany:12", "--exclude=b", script, "9", "5"]]
    assert "SLURM_RESTART_COUNT" not in ran.environment("env-sbatch")
    assert '"job":"9","start":4002,"how":"chain","next":"77"' in (inside / "runs/run/jobs.jsonl").read_text()


def test_a_task_of_an_array_requeues_only_itself(bash, inside):
    task = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "13", "points": (0, 1)}
    ran = bash(**task, AGENT=agent("12_1-0", run="run-1"))
    assert ran.calls("srun")[1][-2:] == [f"{inside}/runs/run-1", "--batch"]
    assert ran.calls("scontrol")[1:] == [["requeue", "12_1"]]
    assert '"job":"12_1"' in (inside / "runs/run-1/jobs.jsonl").read_text()
    ran = bash(**task, AGENT=agent("12_1-0", run="run-1"), overrides=("slurm.requeue=chain",))
    script = str(ran.folder / "job.sbatch")
    assert ran.calls("sbatch") == [["--parsable", "--dependency=afterany:12_1", "--array=1", script, "12_1", "1"]]


def test_a_single_job_ignores_variables_of_an_array(bash, inside):
    ran = bash(SLURM_ARRAY_JOB_ID="3", SLURM_ARRAY_TASK_ID="1", LAUNCHER_JOB="3_1")
    assert ran.environment()["LAUNCHER_JOB"] == "12"


@pytest.mark.parametrize("overrides", [("slurm.requeue=never",), ("slurm.max_requeues=2",)])
def test_the_number_of_requeues_is_limited(bash, inside, overrides):
    ran = bash(overrides=overrides, AGENT=agent("12-2"), SLURM_RESTART_COUNT="2")
    assert ran.process.returncode == 75
    assert ran.calls("scontrol") == [["show", "hostnames"]]
    assert "submit the run again to go on" in ran.warned


def test_few_unfit_nodes_are_left_out_next_time(bash, inside):
    ran = bash(UNFIT="c")
    assert ran.process.returncode == 69 and len(ran.calls("srun")) == 1
    assert "1 of 4 nodes cannot run this: c" in ran.warned
    assert ran.calls("scontrol")[1:] == [["requeue", "12"], ["update", "JobId=12", "ExcNodeList=c"]]


@pytest.mark.parametrize("unfit", ["a b", "a b c d"])
def test_where_half_of_the_nodes_are_unfit_it_is_not_the_nodes(bash, inside, unfit):
    ran = bash(UNFIT=unfit)
    assert ran.process.returncode == 69 and ran.calls("scontrol") == [["show", "hostnames"]]


def test_where_srun_fails_no_node_is_to_blame(bash, inside):
    ran = bash(LOOK="false")
    assert ran.process.returncode == 69 and len(ran.calls("srun")) == 2
    assert "srun failed twice" in ran.warned
    assert ran.calls("scontrol") == [["requeue", "12"]]


def test_srun_may_fail_once(bash, inside):
    ran = bash(LOOK='! mkdir "$STAND_IN/once" 2>/dev/null')
    assert ran.process.returncode == 0 and len(ran.calls("srun")) == 3


def test_the_node_check_reports_what_is_missing(bash, inside):
    """Runs the check as a node does."""
    ran = bash(overrides=[f"scratch.local={inside}/scratch"])
    look = ran.calls("srun")[0]
    words, env = look[look.index("sh") :], {**os.environ, "SLURMD_NODENAME": "n1", "TMPDIR": f"{inside}/scratch"}

    def said(*given):
        done = subprocess.run([*words[:4], *given], env=env, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip(), done.stderr.strip().removeprefix("launcher: ")

    assert words[4:] == [f"{inside}/runs/run", str(CACHE), PYTHON]
    run, cache = inside / "runs/run", str(inside)
    assert said(run, cache, "sh") == ("", f"n1: the run folder {run} is not there, or cannot be written")
    (run / "plan.json").touch()
    assert said(run, cache, "sh") == ("n1", "") and (inside / "scratch").is_dir()
    assert said(run, "/not/there", "sh") == ("", "n1: the cache /not/there is not there")
    assert said(run, cache, "/no/python") == ("", "n1: /no/python is not there")


WAITS = (
    """trap 'echo USR1 >"$STAND_IN/told"; exit 75' USR1; touch "$STAND_IN/up"; for i in {1..200}; do sleep 0.05; done"""
)


def up(ran):
    end = time.monotonic() + 20
    while not (ran.folder / "up").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_usr1_goes_to_srun_and_the_shell_waits_for_it(bash, inside):
    ran = bash(wait=False, AGENT=WAITS)
    up(ran)
    ran.process.send_signal(signal.SIGUSR1)
    assert ran.end() == 75 and (ran.folder / "told").read_text() == "USR1\n"


def test_usr1_before_the_agents_is_kept_until_one_listens(bash, inside):
    listens = "mkdir -p runs/run/jobs/12-0; sleep 0.5; touch runs/run/jobs/12-0/report-0.json"
    ran = bash(wait=False, LOOK='touch "$STAND_IN/up"; sleep 0.5', AGENT=f"trap '' USR1; {listens}; {WAITS}")
    up(ran)
    ran.process.send_signal(signal.SIGUSR1)
    assert ran.end() == 75 and (ran.folder / "told").read_text() == "USR1\n"


@pytest.mark.parametrize(("state", "told"), [("RUNNING", [["--signal=TERM", "12"]]), ("COMPLETING", [])])
def test_term_goes_to_the_steps_and_the_job_does_not_come_back(bash, inside, state, told):
    waits = f'{agent("12-0").removesuffix("exit 75")} touch "$STAND_IN/up"; sleep 1; exit 75'
    ran = bash(wait=False, AGENT=waits, STATE=state)
    up(ran)
    ran.process.send_signal(signal.SIGTERM)
    assert ran.end() == 75
    assert ran.calls("scancel") == told
    assert ran.calls("scontrol") == [["show", "hostnames"]]


# Values of users never run as shell

HOSTILE = [
    "$(touch PWNED)", "`touch PWNED`", "'; touch PWNED; '", '"; touch PWNED; "', "a\\", "$HOME", "*", "~", "!!", "-n",
    "# x", "a'b\"c", "{a,b}", "\\$(touch PWNED)", "&& touch PWNED", "|touch PWNED", "'\"'\"'", "$'x'", "{{ x }}",
    "{% raw %}", "<# x #>", "a  b", "a=b", "%j",
]  # fmt: skip
PRINTED = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
WORDS = st.text(PRINTED, min_size=1, max_size=24) | st.sampled_from(HOSTILE)
NAMES = WORDS.filter(lambda text: not set("/%\\") & set(text) and text not in (".", ".."))


@settings(max_examples=40, deadline=None)
@given(folder=NAMES, value=WORDS, python=WORDS, module=WORDS, account=WORDS)
def test_values_of_a_profile_reach_the_ranks_unchanged(tmp_path_factory, folder, value, python, module, account):
    place = tmp_path_factory.mktemp("bash") / folder
    place.mkdir()
    cluster = load.cluster("slurm-cpu").value
    config = cluster.scheduler.model_copy(
        update={"python": python, "modules": [module], "account": account, "options": [value]}
    )
    cluster = cluster.model_copy(update={"env": {"VALUE": value}, "interface": value})
    made = rendered(planned("run", cluster), cluster, place, place, config)
    ran = Bash(place.parent / "stand-in", made.text)
    assert (ran.end(), ran.warned, ran.said) == (0, "", "")
    assert ran.calls("srun")[1][9:] == [python, "-m", "launcher.launch.node", f"{place}/runs/run", "--batch"]
    assert ran.calls("srun")[0][-3:] == [f"{place}/runs/run", str(place), python]
    assert ran.calls("module") == [["load", module]]
    told = ran.environment()
    names = ("VALUE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "LAUNCHER_CACHE")
    assert [told[name] for name in names] == [value, value, value, str(place)]
    assert not list(Path().glob("PWNED")) and not list(place.parent.rglob("PWNED"))
