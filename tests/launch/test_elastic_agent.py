"""The clock of torch's rendezvous."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from launcher.launch import elastic_agent


@pytest.mark.parametrize("hours", [-1, 1])
def test_nodes_stay_alive_when_the_clock_is_set(monkeypatch, hours):
    """torch removes a node whose last keep-alive is older than some seconds."""
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous as rendezvous

    class Moved(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.fromtimestamp(time.time() + 3600 * hours, zone)

    clock = elastic_agent.SteadyClock()
    heard = clock.now(UTC)
    monkeypatch.setattr(elastic_agent, "datetime", Moved)
    assert timedelta(0) <= clock.now(UTC) - heard < timedelta(minutes=10)
    monkeypatch.setattr(rendezvous, "datetime", clock)
    settings = rendezvous.RendezvousSettings("x", 1, 2, rendezvous.RendezvousTimeout(), timedelta(seconds=5), 3)
    backend = type("Backend", (), {"get_state": lambda self: None})()
    holder = rendezvous._BackendRendezvousStateHolder(backend, settings)
    node = rendezvous._NodeDesc("a", 1, 0)
    holder._state.participants[node] = 0
    holder._state.last_heartbeats[node] = clock.now(UTC)
    holder._sanitize()
    assert node in holder._state.participants
