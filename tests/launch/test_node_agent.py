import time
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
from torch.distributed.elastic.rendezvous import RendezvousError

from launcher.distributed import heartbeat
from launcher.distributed.hangs import RankState
from launcher.distributed.heartbeat import Stage
from launcher.launch import Launch, RendezvousSpec, node_agent
from launcher.launch.local_agent import LocalAgent
from launcher.launch.node_agent import NodeAgent


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [
        ({"code": 0, "problems": [], "failed": None}, False),
        ({"code": 1, "problems": [], "failed": {"rank": 0}}, True),
        ({"code": 2, "problems": ["task.reward: no number"], "failed": None}, True),
    ],
)
def test_a_node_whose_ranks_met_a_mistake_of_the_user_has_failed(outcome, failed):
    """The ranks of other nodes would wait for them."""
    assert node_agent.has_failed(outcome) is failed


def agent_that_loses_a_node(folder, monkeypatch, window):
    """The agent of two nodes, one of which is gone, while its own ranks only wait. One restart is left."""
    monkeypatch.setattr(LocalAgent, "_monitor_workers", lambda self, group: RunResult(WorkerState.HEALTHY))
    monkeypatch.setattr(node_agent, "_alive_nodes", lambda rendezvous: 1)
    agent = object.__new__(NodeAgent)
    agent.rendezvous = RendezvousSpec(folder, start_folder=folder)
    heartbeat.create(agent.rendezvous.heartbeats, 1)
    agent.launch = Launch(folder, 1, "cpu", 1, restart_window=window)
    agent.logs = SimpleNamespace(folder=folder / "logs")
    agent._worker_group = SimpleNamespace(spec=SimpleNamespace(max_restarts=1, rdzv_handler=None), group_world_size=2)
    agent._remaining_restarts, agent._pcontext, agent._limit_before = 1, None, ""
    return agent


def lose(agent):
    """The other node is gone. torch's agent then takes one of the restarts that are left."""
    agent._last_check = 0.0
    assert agent._monitor_workers(agent._worker_group).state is WorkerState.UNHEALTHY
    agent._remaining_restarts -= 1


def test_the_loss_of_a_node_counts_from_zero_after_some_time_without_a_failure(tmp_path, monkeypatch):
    agent, now = agent_that_loses_a_node(tmp_path, monkeypatch, window=60.0), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(3):
        lose(agent)
        now[0] += 61
    lose(agent)
    now[0] += 59
    with pytest.raises(RendezvousError):
        lose(agent)


def test_a_node_whose_peer_ran_out_of_memory_has_a_restart_more_too(tmp_path, monkeypatch):
    agent = agent_that_loses_a_node(tmp_path, monkeypatch, window=None)
    lose(agent)
    (tmp_path / "max_tokens.json").write_text("{}")
    lose(agent)
    agent._limit_before = agent._limit()
    with pytest.raises(RendezvousError):
        lose(agent)


def test_a_disk_that_refuses_the_states_of_a_hang_does_not_end_the_agent(tmp_path):
    """They are posted as soon as it has room."""
    (folder := tmp_path / "start").touch()
    agent = object.__new__(NodeAgent)
    agent.rendezvous = RendezvousSpec(tmp_path, start_folder=folder)
    group = SimpleNamespace(master_port=1, workers=[SimpleNamespace(world_size=1)])
    states = [RankState(0, 7, 0, Stage.SAVING, 99.0)]
    assert agent._found_hang(group, states) is None
    folder.unlink()
    assert agent._found_hang(group, states).rank == 0
    assert agent._found_hang(group, []) is None and not list(folder.iterdir())
