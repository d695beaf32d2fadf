"""The files of a copy in memory: safetensors reads them, and a mark is whole or none."""

import os

import pytest
import support
import torch
from safetensors.torch import load_file

from launcher.storage import memory_copy_format, memory_folder
from launcher.storage.memory_copy_format import Mark, Piece
from launcher.storage.memory_folder import MemoryFolder
from launcher.storage.run_dir import RunDir

STATE = {"step": 4, "evaluation": {"eval/loss": float("inf")}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    place, run = tmp_path / "memory", tmp_path / "run"
    place.mkdir()
    run.mkdir()
    monkeypatch.setenv("LAUNCHER_MEMORY", str(place))
    return MemoryFolder(run, memory_folder.run_id(RunDir(run), create=True))


def mark(rank=0, step=4, **changes):
    known = {
        "step": step, "rank": rank, "layout": "l", "pieces": [0], "total": 1, "shapes": {"a": [2]}, "size": 8,
        "checksum": "", "state": {**STATE, "step": step},
    }  # fmt: skip
    return Mark(**{**known, **changes})


def test_safetensors_reads_a_file(folder):
    folder.create()
    slot = folder.slot(0, 0)
    header = memory_copy_format.header(
        {"a": Piece("F64", (2, 1), 16), "b@1": Piece("BF16", (3,), 6), "c": Piece("F32", (), 4)}
    )
    content = slot.map(len(header) + 26)
    content[: len(header)] = header
    content[len(header) : len(header) + 16] = torch.tensor([1.5, -2.0], dtype=torch.float64).numpy().tobytes()
    found = load_file(slot.file)
    assert found["a"].equal(torch.tensor([[1.5], [-2.0]], dtype=torch.float64))
    assert found["b@1"].equal(torch.zeros(3, dtype=torch.bfloat16)) and found["c"].shape == ()
    assert len(header) % 64 == 0 and slot.file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_does_not_fit_is_not_begun(folder):
    with support.tmpfs(memory_folder.root(), "256k"):
        folder.create()
        slot = folder.slot(0, 0)
        with pytest.raises(OSError):
            slot.map(1 << 20)
        assert not slot.file.exists()
        assert len(slot.map(1 << 16)) == 1 << 16


def test_a_mark_comes_back_as_it_was_and_a_damaged_one_is_none(folder):
    folder.create()
    slot = folder.slot(0, 1)
    assert slot.read() is None
    slot.complete(mark())
    assert slot.read() == mark() == Mark.of(mark().text().encode())
    text = slot.mark.read_text()
    for damaged in ("", text[:-2], text.replace('"total": 1', '"total": -1'), text.replace('"step": 4', '"step": "4"')):
        slot.mark.write_text(damaged)
        assert slot.read() is None
    slot.complete(mark(rank=1))
    assert slot.read() is None  # of another file
    slot.invalidate()
    os.mkfifo(slot.mark)
    assert slot.read() is None
