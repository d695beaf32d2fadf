"""Exports made small: what is read again from the folder is the model, a little worse and a good deal smaller."""

import re

import pytest
import support
import torch
import transformers
from rich.console import Console

from launcher.config.errors import UserError
from launcher.tools import as_onnx, int8, small
from launcher.tools.trained import load_run

pytestmark = pytest.mark.usefixtures("in_sorter")
TEXTS = ["the rank reads a batch", "every seed", "a"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(small, "_ROUNDS", 1)


def exported(to, run="runs/sorter", **wanted):
    return small.export(run, "latest", to, "1GiB", small.Wanted(**wanted), Console(quiet=True))


def inputs(folder, texts=TEXTS):
    return dict(transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt"))


def trained(folder, texts=TEXTS):
    with torch.no_grad():
        return load_run("runs/sorter", "latest").model(**inputs(folder, texts)).logits


def table(lines):
    """The rows of the printed table by their names."""
    rows = [line.replace(",", "").split() for line in lines if re.match(r"\S+ +\d", line)]
    return {name: dict(zip(lines[0].split()[1:], map(float, values), strict=True)) for name, *values in rows}


def test_int8_layers_are_saved_and_loaded_without_pickle(tmp_path, printed):
    wanted = small.Wanted(int8=True)
    lines = printed(
        lambda console: small.export("runs/sorter", "latest", tmp_path / "out", "1GiB", wanted, console), 120
    )
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"config.json", "model.int8.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    model = int8.load(tmp_path / "out")
    linear = [m for m in load_run("runs/sorter", "latest").model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(int8.layers(model)) == len(linear)
    with torch.no_grad():
        assert torch.allclose(model(**inputs(tmp_path / "out")).logits, trained(tmp_path / "out"), atol=0.2)
    rows = table(lines)
    assert set(rows) == {"original", "int8"}
    assert rows["original"]["accuracy"] == pytest.approx(
        support.evaluations("runs/sorter")[40]["eval/accuracy"], abs=1e-4
    )
    assert abs(rows["int8"]["accuracy"] - rows["original"]["accuracy"]) < 0.02


def test_a_share_of_the_entries_of_matrices_is_zero_and_transformers_loads_it(tmp_path):
    exported(tmp_path / "out", prune=0.3)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    before = load_run("runs/sorter", "latest").model
    matrices = [(name, m.weight) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    zeros = sum(int((weight == 0).sum()) for _, weight in matrices)
    entries = sum(weight.numel() for _, weight in matrices)
    assert zeros == round(0.3 * entries)
    largest = max(
        float(before.get_submodule(n).weight.detach()[weight == 0].abs().max())
        for n, weight in matrices
        if (weight == 0).any()
    )
    assert all(weight[weight != 0].abs().min() >= largest for _, weight in matrices)
    assert "entries of" in (tmp_path / "out" / "README.md").read_text()


@pytest.fixture(scope="module")
def graph(sorter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(sorter)
        patch.setattr(small, "_ROUNDS", 1)
        exported(folder, onnx=True)
    return folder


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], TEXTS * 5, ["the " * 29]])
def test_the_graph_takes_any_number_of_samples_and_of_tokens(graph, texts):
    made = as_onnx.Session(graph / "model.onnx")(**inputs(graph, texts)).logits
    assert torch.allclose(made, trained(graph, texts), atol=1e-4)


def test_the_lines_of_the_card_load_it(graph, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (graph / "README.md").read_text(), re.DOTALL)
    exec(code.replace("path/to/this/folder", str(graph)), {})
    assert "array(" in capsys.readouterr().out


def test_the_graph_is_quantised_too(graph, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes((graph / "model.onnx").read_bytes())
    as_onnx.quantize(file)
    assert file.stat().st_size < (graph / "model.onnx").stat().st_size
    made = as_onnx.Session(file)(**inputs(graph)).logits
    assert torch.allclose(made, trained(graph), atol=0.3)
    assert not torch.equal(made, trained(graph))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_two_ways_together(tmp_path):
    exported(tmp_path / "out", prune=0.5, int8=True)
    with torch.no_grad():
        weight = int8.load(tmp_path / "out").bert.encoder.layer[0].intermediate.dense.weight()
    assert float((weight.int_repr() == 0).float().mean()) > 0.3


@pytest.mark.parametrize(
    ("wanted", "what"),
    [
        ({"prune": 1.5}, r"^--prune 1\.5: should be a share between 0 and 1, such as 0\.3$"),
        ({"prune": 0.0}, r"^--prune 0\.0: should be a share"),
        ({"int8": True, "run": "runs/none"}, r"^runs/none: no run is there"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_is_made(tmp_path, wanted, what):
    with pytest.raises(UserError, match=what):
        exported(tmp_path / "out", **wanted)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(
        UserError, match=r"^--format onnx: onnxruntime not installed \(pip install 'launcher\[onnx\]'\)$"
    ):
        exported(tmp_path / "out", onnx=True)


def test_without_a_wish_it_is_the_plain_export(tmp_path):
    assert re.search(r": \d files, .* checkpoint of step 40$", exported(tmp_path / "out"))
