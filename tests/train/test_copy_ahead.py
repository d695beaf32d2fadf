"""Micro-batches on their way to an accelerator: pinned, copied on a stream of their own, one ahead."""

import numpy as np
import pytest
import torch
from support import probe_batches

from launcher.train import copy_ahead
from launcher.train.rank_batch import RankBatch
from launcher.train.sample_rows import SampleRows

META = torch.device("meta")
"""Takes copies as an accelerator does, and has neither streams nor values."""


def micro_batch(number):
    inputs = {"input_ids": torch.full((2, 3), number)}
    return {"inputs": inputs, "labels": torch.tensor([number])}, probe_batches.rows(np.array([number, number + 1]))


class Event(str):
    def __new__(cls, name, found):
        event = super().__new__(cls, name)
        event.found = found
        return event

    def synchronize(self):
        self.found.append(f"the host waits for {self}")


@pytest.fixture
def events(monkeypatch):
    """What is called on streams and tensors, in order."""
    found, made = [], []

    class Stream:
        def __init__(self, name):
            self.name, self.count = name, 0

        def __enter__(self):
            found.append("copy")

        def __exit__(self, *error):
            pass

        def record_event(self):
            self.count += 1
            return Event(f"end of {self.count}", found)

        def wait_event(self, event):
            found.append(f"{self.name} waits for {event}")

    computation = Stream("computation")
    monkeypatch.setattr(torch, "Stream", lambda device: made.append(device) or Stream("copies"))
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: computation)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: found.append(f"kept for {stream.name}"))
    copy_ahead._copy_stream.cache_clear()
    yield found
    copy_ahead._copy_stream.cache_clear()
    assert len(made) <= 1


def test_a_micro_batch_is_copied_while_the_one_before_computes(events):
    kept = ["kept for computation"] * 3
    for number, (batch, rows) in enumerate(copy_ahead.on_device(map(micro_batch, range(3)), META), start=1):
        assert {batch["inputs"]["input_ids"].device, batch["labels"].device, rows.keys.device} == {META}
        events.append(f"compute {number}")
    assert events == [
        "copy", "copy", "computation waits for end of 1", *kept, "compute 1",
        "copy", "computation waits for end of 2", *kept, "compute 2",
        "computation waits for end of 3", *kept, "compute 3",
    ]  # fmt: skip


def test_all_steps_copy_on_one_stream(events):
    """torch gives out 32 streams in turn, each with free memory of its own."""
    for _ in range(3):
        list(copy_ahead.on_device([micro_batch(1)], META))
    assert [one for one in events if "waits" in one] == [f"computation waits for end of {n}" for n in (1, 2, 3)]


def test_results_are_copied_in_their_step_and_the_host_waits_for_no_later_one(events, monkeypatch):
    """A copy that is begun when it is read would wait for the next step, which is on the same stream by then."""
    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda one, *given, **more: events.append((*given, more)) or to(one, *given)
    )
    values = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]
    copies = copy_ahead.HostCopies.begin(values, META)
    assert events == [("cpu", {"non_blocking": True})] * 2
    events.append("the next step is begun")
    assert [one.tolist() for one in copies.received()] == [[1.0, 2.0], [3.0]]
    assert events[2:] == ["the next step is begun", "the host waits for end of 1"]


def test_results_of_a_cpu_are_there(events):
    assert torch.equal(copy_ahead.HostCopies.begin([torch.ones(2)], torch.device("cpu")).received()[0], torch.ones(2))
    assert events == []


def test_on_a_cpu_nothing_is_copied(events):
    given = [micro_batch(number) for number in range(2)]
    for (batch, rows), (expected, its_rows) in zip(
        copy_ahead.on_device(given, torch.device("cpu")), given, strict=True
    ):
        assert batch["inputs"]["input_ids"] is expected["inputs"]["input_ids"] and rows.keys is its_rows.keys
    assert events == []


def test_the_samples_of_a_row_without_padding_go_along(events, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    two = torch.tensor([[1, 1, 2]])
    rows = SampleRows(two, torch.tensor([3]), positions=two.int(), sequences=torch.tensor([1, 2]))
    pinned = rows.pin_memory()
    for name in ("keys", "positions", "sequences"):
        assert torch.equal(getattr(pinned, name), getattr(rows, name))
        assert getattr(pinned, name) is not getattr(rows, name)
    ((_, copied),) = copy_ahead.on_device([({}, pinned)], META)
    assert {one.device for one in copied.on_device()} == {META} and len(copied.on_device()) == 3
    assert events.count("kept for computation") == 3


def test_a_loader_pins_every_tensor_of_a_share_that_is_copied(monkeypatch):
    """But the key of the step, which stays on the host."""
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    batches, rows = zip(*map(micro_batch, range(2)), strict=True)
    batches[0]["names"] = ("a", "b")  # what is no tensor stays
    share = RankBatch(list(batches), list(rows), weight=2.0, digest=7, tokens=6, padded=6)
    found = pin_memory(share)
    assert len(pinned) == 2 * 3
    assert found.micro_batches[0]["names"] == ("a", "b")
    assert (found.weight, found.digest, found.tokens, found.padded) == (2.0, 7, 6, 6)
    assert found.rows[1].keys is not rows[1].keys and found.rows[1].step is rows[1].step
    assert torch.equal(found.micro_batches[1]["inputs"]["input_ids"], batches[1]["inputs"]["input_ids"])
