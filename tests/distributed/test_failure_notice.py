import pytest
import torch.distributed as dist

from launcher.distributed import failure_notice
from launcher.distributed.exit_codes import FAILED


class Ended(Exception):
    pass


def posted():
    store = dist.HashStore()
    store.set("failed", "3")
    return store


def of_a_rank_0_that_was_killed():
    served = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return dist.TCPStore("127.0.0.1", served.port, is_master=False, wait_for_workers=False)


@pytest.mark.parametrize(
    ("store", "said", "seconds"),
    [
        (posted, "rank 1 ended because rank 3 has failed (see the log of that rank)", 10),
        (of_a_rank_0_that_was_killed, "rank 1 ended because rank 0 has ended (see the log of that rank)", 60),
    ],
)
def test_a_rank_that_still_waits_after_another_has_ended_is_ended(store, said, seconds, monkeypatch, caplog):
    slept = []

    def exit_now(code):
        raise Ended(code)

    monkeypatch.setattr(failure_notice.private_tmp, "leave", lambda: None)
    monkeypatch.setattr(failure_notice.output_streams, "exit_now", exit_now)
    monkeypatch.setattr(failure_notice.time, "sleep", slept.append)
    with pytest.raises(Ended, match=str(FAILED)):
        failure_notice._watch(store(), 1)
    assert slept == [seconds]
    assert [record.getMessage() for record in caplog.records] == [said]
