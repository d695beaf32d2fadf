"""`launcher seen` on a run that was killed, resumed and resharded: rows, masks, digests, and a replay."""

import json
import shutil
from pathlib import Path

import pytest
import support
from rich.console import Console

from launcher.config.errors import UserError
from launcher.tools.seen import run_data, seen, step_samples


@pytest.fixture
def seen_json(in_place, capsys):
    """A function that returns the JSON and the exit code of a step."""

    def call(run, step, limit=99, replays=False):
        code = seen.seen(run, step, replays, limit, True)
        return json.loads(capsys.readouterr().out), code

    return call


@pytest.mark.parametrize("step", [1, 4, 7, 10, 14])
def test_the_documents_are_those_of_the_file_whatever_the_ranks(seen_json, step):
    """Steps before the first kill, between the kills, and after: the rows' words are those of the samples."""
    (hurt, code), (whole, _) = seen_json("runs/hurt", step), seen_json("runs/whole", step)
    assert code == 0 and hurt["same"] and hurt["digest"] == support.steps("runs/hurt")[step]["data"]
    assert (hurt["samples"], hurt["digest"]) == (whole["samples"], whole["digest"])
    lines = Path("corpus.txt").read_text().splitlines()
    for sample in hurt["samples"]:
        (document,) = sample["documents"]
        words = lines[int(document["place"].removeprefix("corpus.txt:")) - 1].replace(" ", "")
        shown = [token.partition("→")[0].removeprefix("##") for token in sample["text"].split()]
        assert shown[0] == "[CLS]" and words.startswith("".join(shown[1:-1]))
        assert [n for n, token in enumerate(sample["text"].split()) if "→" in token] == [
            masked["position"] for masked in sample["masked"]
        ]
    assert any(sample["masked"] for sample in hurt["samples"])
    assert hurt["ranks"] in {1: [2], 14: [3]}.get(step, [2, 1, 3])  # where the others began again is a matter of time


def test_a_replay_equals_the_record_and_leaves_the_run_alone(seen_json):
    """To the last bit on the layout of the run, and to rounding on another. The run folder stays as it is."""
    before = support.tree("runs/hurt")
    (whole, code), (hurt, also) = seen_json("runs/whole", 8, replays=True), seen_json("runs/hurt", 13, replays=True)
    assert (code, also) == (0, 0)
    assert (whole["replay"]["start"], whole["replay"]["difference"]) == (6, 0.0)
    assert whole["replay"]["loss"] == support.steps("runs/whole")[8]["loss"]
    assert hurt["replay"]["start"] == 12 and hurt["replay"]["difference"] < 1e-5
    assert support.tree("runs/hurt") == before


def test_a_record_of_something_else_is_found(seen_json, tmp_path):
    shutil.copytree("runs/whole", tmp_path / "whole")
    metrics = tmp_path / "whole" / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines[4]["data"], lines[7]["loss"] = "0" * 16, lines[7]["loss"] * 1.01
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, code = seen_json(str(tmp_path / "whole"), 5)
    assert (code, found["same"], found["recorded"]["data"]) == (1, False, "0" * 16)
    found, code = seen_json(str(tmp_path / "whole"), 8, replays=True)
    assert code == 1 and 0.009 < found["replay"]["difference"] < 0.011


def shown(run, step, width=80, limit=3):
    data = run_data.of(run)
    chosen = step_samples.of(data, step)
    documents, changed = seen._documents(data, chosen, limit)
    console = Console(width=width, force_terminal=True, color_system=None)
    record = seen.StepRecords(data.folder.metrics).of(step)
    with console.capture() as text:
        seen._show(seen.SeenStep(data, chosen, documents, changed, record, 0, {}, False), limit, console)
    return text.get().splitlines()


def test_it_fits_a_terminal(in_place):
    lines = shown("runs/whole", 3)
    assert max(map(len, lines)) <= 80
    assert lines[0] == "runs/whole: step 3 of 14: 12 samples, in the order of the batch"
    assert "9 more (--limit 12 shows all)" in lines
    assert lines[-2].startswith(f"digest {support.steps('runs/whole')[3]['data']} equals the run's record (loss ")


def test_changed_data_is_said(in_place, seen_json, monkeypatch, tmp_path):
    """With the cache the samples are those of the run, but no row is named. Without it, the digest differs."""
    shutil.copytree(in_place, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    corpus = Path("corpus.txt")
    corpus.write_text(corpus.read_text().replace("gradient", "gradients"))
    found, code = seen_json("runs/whole", 2)
    assert code == 0 and found["rows"].startswith("the source has changed since the run began (data ")
    assert all(sample["documents"] == [] for sample in found["samples"])
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "empty"))
    found, code = seen_json("runs/whole", 2)
    assert code == 1 and found["digest"] != found["recorded"]["data"]
    assert "the cache does not have the data of the run: these are samples of the source now" in found["rows"]
    corpus.unlink()
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "emptier"))
    with pytest.raises(UserError, match="the cache does not have its data, and the source cannot be read"):
        run_data.of("runs/whole")


def test_steps_that_a_run_does_not_have(in_place):
    with pytest.raises(UserError, match=r"runs/whole: has no step 15 \(its steps are 1 to 14\)"):
        seen.seen("runs/whole", 15, False, 3, False)
    with pytest.raises(UserError, match="runs/none: no run is there"):
        seen.seen("runs/none", 1, False, 3, False)


def test_packed_rows_have_offsets(seen_json, tmp_path):
    """Packing changes neither the prepared samples nor the digests, so that the recipe of a run can be edited."""
    run = Path(shutil.copytree("runs/whole", tmp_path / "packed"))
    text = (run / "recipe.yaml").read_text()
    assert "samples: documents" in text
    (run / "recipe.yaml").write_text(text.replace("samples: documents", "samples: packed"))
    most = 0
    for step in range(1, 15):
        found, code = seen_json(str(run), step)
        rows = {}
        for sample in found["samples"]:
            rows.setdefault(sample["row"], []).append((sample["row_start"], sample["tokens"]))
        for parts in rows.values():
            ends = [0, *(start + tokens for start, tokens in sorted(parts))]
            assert [start for start, _ in sorted(parts)] == ends[:-1] and ends[-1] <= 32
        most = max(most, *map(len, rows.values()))
        assert (code, found["ranks"]) == (0, 1)
    assert most > 1
