"""The launcher on each node of a job: here processes with addresses of their own on the loopback, and real ranks."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import support
from support import hangs, killed_run, warm_start

from launcher.config import load
from launcher.config.cluster import Cluster
from launcher.launch import node
from launcher.prepare import run_setup
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir

LATE = '''
"""While there is a file `late`, a save takes a minute."""
import os
import time
from own.slow import Config, Sink as Slow
from launcher.storage import checkpoint_format

class Sink(Slow):
    def __init__(self, config, about):
        checkpoint_format.publish = publish

def publish(*arguments, publish=checkpoint_format.publish, **options):
    if os.path.exists("late"):
        time.sleep(60)
    return publish(*arguments, **options)
'''
HOSTS = ("127.0.1.1", "127.0.1.2", "127.0.1.3")


def cluster(nodes, devices=2, **more):
    return Cluster.model_validate(
        {"name": "here", "kind": "ssh", "nodes": nodes, "devices_per_node": devices, "device": "cpu",
         "memory_per_device": 8, "ssh": {"hosts": HOSTS}, **more}
    )  # fmt: skip


def folder(name, nodes=2, steps=4000, of=support.small, devices=2, profile=(), **changes):
    """A run folder as submit writes it."""
    recipe = of(name, train__steps=steps, train__precision="fp64", **{"checkpoint__every": 5, **changes})
    loaded = load.recipe(support.write(recipe, f"{name}.yaml"))
    made = run_setup.create(run_setup.validate(loaded, cluster(nodes, devices, **dict(profile)), None))
    made.release()
    return made.folder


class Job:
    """The agents of one start, each at the head of a process group of its own."""

    def __init__(self, run, nodes, start=0, lifeline=False, **env):
        self.run, self.hosts = run, HOSTS[:nodes]
        told = {"LAUNCHER_JOB": "7", "LAUNCHER_START": str(start), "OMP_NUM_THREADS": "1", **env}
        argv = [run.path, "--hosts", ",".join(self.hosts), *(["--lifeline"] if lifeline else [])]
        self.start = lambda node: warm_start.start(
            [*argv, "--node", node], module="launcher.launch.node", environment=told, stdin=subprocess.PIPE
        )
        self.agents = [self.start(node) for node in range(nodes)]

    def at_step(self, step):
        support.wait_for_step(self.run.path, step, self.agents[0])

    def power_off(self, node):
        support.kill_group(self.agents[node])

    def freeze(self, node):
        """Put all of a node's processes to sleep. Returns them."""
        agent = psutil.Process(self.agents[node].pid)
        asleep = [agent, *agent.children(recursive=True)]
        for process in asleep:
            process.suspend()
        return asleep

    def ended(self, timeout=90):
        """The exit codes, and what each agent said."""
        said = [
            agent.communicate(timeout=timeout)[0] for agent in self.agents if agent.stdout and not agent.stdout.closed
        ]
        return [agent.returncode for agent in self.agents], said


@pytest.fixture
def job(workspace):
    """Starts agents, and ends what is left of them."""
    made = []

    def start(*arguments, **options):
        made.append(Job(*arguments, **options))
        return made[-1]

    yield start
    for one in made:
        for agent in one.agents:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)


def story(run):
    return [(told["event"], told.get("why"), told.get("code")) for told in job_log.read(run)]


def came_back(run, start=0):
    file = run.jobs / f"7-{start}" / "again"
    return file.read_text().split() if file.is_file() else None


def test_two_nodes_do_what_one_does(job):
    run = folder("nodes", steps=12, of=support.mlm)
    codes, _ = job(run, 2).ended()
    assert codes == [0, 0]
    support.launcher("run", "nodes.yaml", "name=alone", "--ranks", 4)
    there, here = support.steps("runs/alone"), support.steps(run.path)
    assert [here[s]["data"] for s in here] == [there[s]["data"] for s in there] and len(here) == 12
    assert all(abs(here[s]["loss"] - there[s]["loss"]) < 1e-9 for s in here)
    assert story(run) == [("started", None, None), ("ended", "done", 0)] and came_back(run) is None
    assert (run.jobs / "7-0" / "code").read_text() == "0\n"


@pytest.mark.parametrize("number, why, back", [(signal.SIGUSR1, "time", []), (signal.SIGTERM, "told", None)])
def test_a_signal_to_one_node_is_agreed_on_by_all(job, number, why, back):
    run = folder("told")
    agents = job(run, 2)
    agents.at_step(6)
    agents.agents[1].send_signal(number)
    assert agents.ended()[0] == [75, 75]
    whole = run.whole()[-1].step
    assert whole == max(support.steps(run.path)) and story(run)[-1] == ("ended", why, 75) and came_back(run) == back


def test_the_file_stop_is_agreed_on_by_all_and_heeded_by_the_next_start(job):
    """10 s: a scheduler that requeues the job all the same makes a second start, which trains no step."""
    run = folder("file")
    agents = job(run, 2)
    agents.at_step(6)
    (run.path / "STOP").touch()
    assert agents.ended()[0] == [75, 75]
    whole = run.whole()[-1].step
    assert job(run, 2, start=1).ended()[0] == [75, 75]
    assert whole == run.whole()[-1].step == max(support.steps(run.path))
    assert [why for event, why, _ in story(run) if event == "ended"] == ["told", "told"]
    assert came_back(run) is None and came_back(run, 1) is None


def test_the_deadline_is_kept_by_the_clock(job):
    support.plugin("slow", support.SLOW)
    run = folder("late", sinks=["jsonl", {"kind": "own.slow"}])
    agents = job(run, 2, LAUNCHER_DEADLINE=str(int(time.time()) + 40))
    assert agents.ended()[0] == [75, 75]
    assert story(run)[-1] == ("ended", "time", 75) and came_back(run) == []


def test_a_failing_rank_is_the_last_message(job):
    support.plugin("faulty", support.FAULTY)
    run = folder("faulty", task__kind="own.faulty")
    codes, said = job(run, 2).ended()
    assert codes == [1, 1] and story(run)[-1] == ("ended", "failed", 1) and came_back(run) is None
    first = [line for line in said[0].splitlines() if line and not line.startswith(" ")][-1]
    assert first.startswith("rank 1 on 127.0.1.1 failed at step") and "the third law of thermodynamics" in first


def test_a_rank_that_hangs_on_another_node_is_named(job):
    """10 s: no agent sees all ranks. Each posts the states of its own, and the one of the rank that hangs acts."""
    support.plugin("hanging", hangs.TASK)
    run = folder("hangs", task__kind="own.hanging", profile={"watchdog": {"seconds": hangs.SECONDS}})
    codes, said = job(run, 2, HANGS="calls_native_code", HANGING_RANK="3").ended()
    assert codes == [1, 1] and story(run)[-1] == ("ended", "failed", 1)
    first = [line for line in said[0].splitlines() if line and not line.startswith(" ")][-1]
    where = f"in forward of step 12 {hangs.line('calls_native_code')} for "
    assert first.startswith(f"rank 3 on 127.0.1.2 has been {where}")
    assert "; ranks 0-2 wait in the gradient all-reduce of step 12; start it again" in first
    found = next(event for event in job_log.read(run) if event["event"] == "hang")
    assert (found["rank"], found["job"], found["stage"]) == (3, "7", "forward")


def test_a_node_that_is_lost_ends_a_job_that_needs_it(job):
    run = folder("lost")
    agents = job(run, 2)
    agents.at_step(6)
    agents.power_off(1)
    codes, said = agents.ended()
    assert codes[0] == 69 and said[0].rstrip().splitlines()[-1].startswith("127.0.1.2 is lost")
    assert story(run)[-1] == ("ended", "node", 69) and came_back(run) == []


def test_an_agent_that_was_killed_leaves_ranks_that_save(job):
    run = folder("agent")
    agents = job(run, 2)
    agents.at_step(6)
    agents.agents[1].kill()
    codes, _ = agents.ended()
    assert codes[0] == 69 and came_back(run) == []
    assert run.whole()[-1].step == max(support.steps(run.path))


def test_an_elastic_job_shrinks_and_goes_on_from_the_last_checkpoint(job):
    support.plugin("slow", support.SLOW)
    run = folder("elastic", nodes="2:3", steps=40, of=support.mlm, sinks=["jsonl", {"kind": "own.slow"}])
    agents = job(run, 3)
    agents.at_step(12)
    agents.power_off(1)
    assert [code for code in agents.ended()[0] if code >= 0] == [0, 0]
    support.launcher("run", "elastic.yaml", "name=alone", "sinks=[jsonl]", "--ranks", 2)
    there, here = support.steps("runs/alone"), support.steps(run.path)
    assert [here[s]["data"] for s in sorted(here)] == [there[s]["data"] for s in sorted(there)]
    assert all(abs(here[s]["loss"] - there[s]["loss"]) < 1e-8 for s in there)
    assert story(run)[-1] == ("ended", "done", 0)


def test_a_node_that_was_lost_joins_again(job):
    """25 s: three agents of one rank each, then two, then three again, in one start; every line of a step is that of a
    run to which nothing happens."""
    support.plugin("sink", killed_run.SINK)
    sinks = ["jsonl", {"kind": "own.sink"}]
    run = folder("back", nodes="2:3", steps=500, devices=1, checkpoint__every=20, sinks=sinks)
    Path("slow").touch()
    agents = job(run, 3)
    agents.at_step(25)
    agents.power_off(1)

    def happened(kind):
        return [event for event in job_log.read(run) if event["event"] == kind]

    support.wait_for(lambda: len(happened("resumed")) == 1, 120)
    agents.agents[1] = agents.start(1)
    support.wait_for(lambda: len(happened("resumed")) == 2, 120)
    Path("slow").unlink()
    assert [agent.wait(180) for agent in agents.agents] == [0, 0, 0]
    assert [event["why"] for event in happened("restarted")][-1] == "joined"
    support.launcher("run", "back.yaml", "name=alone", "sinks=[jsonl]", "--ranks", 2)
    expected = support.steps("runs/alone")
    seen = [record for record in support.records(run.path) if "loss" in record]
    assert sorted({record["step"] for record in seen}) == list(range(1, 501))
    for record in seen:
        assert record["data"] == expected[record["step"]]["data"]
        assert abs(record["loss"] - expected[record["step"]]["loss"]) < 1e-8
    assert {saved.state["ranks"] for saved in run.whole()[-1:]} == {3}


@pytest.mark.soak
@pytest.mark.parametrize("ended", ["stopped", "orphaned"])
@pytest.mark.parametrize("nodes", [2, "1:2"])
def test_a_save_that_takes_a_minute_is_waited_for_on_all_nodes(job, nodes, ended):
    """Longer than the seconds after which a node counts as dead, or an agent that waits gives up. The agent of the
    second node is asked to stop, or killed: then its ranks live on to save, though the first one does not hear it."""
    support.plugin("slow", support.SLOW)
    support.plugin("late", LATE)
    run = folder("late", nodes=nodes, sinks=["jsonl", {"kind": "own.late"}])
    agents = job(run, 2)
    agents.at_step(12)
    Path("late").touch()
    agents.agents[1].send_signal(signal.SIGTERM if ended == "stopped" else signal.SIGKILL)
    codes, said = agents.ended(180)
    assert codes[0] == 75 or (ended, codes[0]) == ("orphaned", 69), said
    assert run.whole()[-1].step == max(support.steps(run.path))


@pytest.mark.parametrize("nodes, restarts", [("2:3", 1), (3, 0)])
def test_a_machine_that_falls_silent_is_not_waited_for(job, nodes, restarts):
    """One that has lost its power closes no connection: here all of its processes are asleep."""
    support.plugin("slow", support.SLOW)
    run = folder("silent", nodes=nodes, steps=60, sinks=["jsonl", {"kind": "own.slow"}])
    agents = job(run, 3)
    agents.at_step(12)
    silent = agents.freeze(1)
    for agent in (agents.agents[0], agents.agents[2]):
        assert agent.wait(120) == (0 if restarts else 69)
    for process in silent:
        process.kill()
    assert story(run)[-1] == (("ended", "done", 0) if restarts else ("ended", "node", 69))
    assert came_back(run) == (None if restarts else [])


def test_agents_leave_when_their_parent_is_gone(job):
    run = folder("lifeline")
    agents = job(run, 2, lifeline=True)
    agents.at_step(6)
    for agent in agents.agents:
        agent.stdin.close()
    assert [agent.wait(60) for agent in agents.agents] == [75, 75]
    assert run.whole()[-1].step == max(support.steps(run.path))


def test_an_older_start_that_lives_on_cannot_write(job):
    """The job is started again while its first start lives on, unseen: it must never save again."""
    run = folder("ghost", nodes=1)
    ghost = job(run, 1)
    ghost.at_step(6)
    os.killpg(ghost.agents[0].pid, signal.SIGSTOP)  # asleep while the other begins: it hears of nothing
    newer = job(run, 1, start=1)
    support.wait_for(lambda: len(story(run)) == 2)
    newer.at_step(max(support.steps(run.path)) + 6)
    before = {saved.path.name for saved in run.whole()}
    os.killpg(ghost.agents[0].pid, signal.SIGCONT)
    (code,), (said,) = ghost.ended()
    assert code == 1 and said.rstrip().splitlines()[-1] == (
        "another start of this run has taken over: this one leaves, and saves nothing"
    )
    newer.agents[0].send_signal(signal.SIGTERM)
    assert newer.ended()[0] == [75]
    assert [told["start"] for told in job_log.read(run) if told.get("why") == "replaced"] == [0]
    assert before and run.whole()[-1].step == max(support.steps(run.path))


def test_a_start_that_is_behind_does_not_begin(job):
    run = folder("behind", nodes=1)
    newer = job(run, 1, start=1)
    newer.at_step(3)
    (code,), (said,) = job(run, 1, start=0).ended()
    assert code == 1 and "has taken over" in said
    newer.agents[0].send_signal(signal.SIGTERM)
    assert newer.ended()[0] == [75]


def test_a_missing_run_folder_is_reported_by_its_node(workspace):
    done = subprocess.run(
        [sys.executable, "-m", "launcher.launch.node", "runs/none", "--hosts", "127.0.1.1"],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 69
    assert (
        done.stderr
        == f"127.0.1.1: {Path('runs/none').absolute()} is not there: a run folder is on a disk that all nodes share\n"
    )


def test_a_start_without_a_name_is_refused(workspace):
    run = folder("nameless", nodes=1)
    argv = [sys.executable, "-m", "launcher.launch.node", str(run.path), "--hosts", "127.0.1.1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and done.stderr.startswith("LAUNCHER_JOB is not set: a name for this start")


def test_outside_of_a_step_the_missing_variable_is_named(workspace):
    done = subprocess.run(
        [sys.executable, "-m", "launcher.launch.node", "runs/none"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and "SLURM_JOB_NODELIST is not set: this is no task of a Slurm step" in done.stderr


def test_a_start_leaves_out_a_node_whose_name_leads_to_itself_everywhere(tmp_path, monkeypatch):
    """Gloo would announce 127.0.1.1 to the other nodes. Only the addresses of names are described."""
    addresses = {"n1": ["127.0.1.1"], "n2": ["192.0.2.2"]}
    monkeypatch.setattr(node.hostnames, "resolved", lambda name: addresses[name])
    monkeypatch.setattr(node.hostnames.socket, "gethostname", lambda: "n1")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    start = node.Start(RunDir(tmp_path), node.Node(0, ("n1", "n2")), "job", 0, 0)
    on_cpu = SimpleNamespace(device="cpu", devices_per_node=1)
    problem = node._unhealthy(start, on_cpu)
    assert problem.startswith("its own name n1 resolves to 127.0.1.1 on it, where no other node reaches it (give it ")
    addresses["n1"] = ["192.0.2.1"]
    assert node._unhealthy(start, on_cpu) is None
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    addresses["n1"] = ["127.0.1.1"]
    assert node._unhealthy(start, on_cpu) is None
