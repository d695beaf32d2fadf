"""Compressed exports: smaller files that give nearly the outputs of the original model."""

import json
import re
import shutil

import pytest
import support
import torch
import transformers
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from support import image_files

from launcher.config.errors import UserError
from launcher.storage.run_dir import RunDir
from launcher.tools.export import compression, export_benchmark, int8, onnx_export
from launcher.tools.export.export import export
from launcher.tools.prediction import predict
from launcher.tools.trained_model import best_note, load_run

pytestmark = pytest.mark.usefixtures("in_sorter")
TEXTS = ["the rank reads a batch", "every seed", "a"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(export_benchmark, "ROUNDS", 1)


def exported(to, run="runs/sorter", **wanted):
    return export(run, "latest", to, "1GiB", Console(quiet=True), compression.CompressionOptions(**wanted))


def inputs(folder, texts=TEXTS):
    return dict(transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt"))


def trained(folder, texts=TEXTS):
    with torch.no_grad():
        return load_run("runs/sorter", "latest").model(**inputs(folder, texts)).logits


def table(lines):
    """The rows of the printed table by name."""
    rows = [line.replace(",", "").split() for line in lines if re.match(r"\S+ +\d", line)]
    return {name: dict(zip(lines[0].split()[1:], map(float, values), strict=True)) for name, *values in rows}


def test_int8_layers_are_saved_and_loaded_without_pickle(tmp_path, printed):
    wanted = compression.CompressionOptions(int8=True)
    lines = printed(lambda console: export("runs/sorter", "latest", tmp_path / "out", "1GiB", console, wanted), 120)
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


def test_without_a_benchmark_only_sizes_are_printed_and_no_data_is_read(tmp_path, printed, monkeypatch):
    monkeypatch.setattr(compression, "Benchmark", lambda trained: pytest.fail("the prepared data was read"))
    wanted = compression.CompressionOptions(int8=True)
    lines = printed(
        lambda console: export("runs/sorter", "latest", tmp_path / "out", "1GiB", console, wanted, False), 120
    )
    assert {name: [*values] for name, values in table(lines).items()} == {"original": ["MiB"], "int8": ["MiB"]}
    assert "samples/s" not in (tmp_path / "out" / "README.md").read_text()
    with torch.no_grad():
        logits = int8.load(tmp_path / "out")(**inputs(tmp_path / "out")).logits
    assert torch.allclose(logits, trained(tmp_path / "out"), atol=0.2)


def test_int8_weights_that_lack_a_parameter_are_not_loaded(tmp_path):
    transformers.BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1).save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    int8.save(int8.quantized(transformers.AutoModelForMaskedLM.from_config(config)), "AutoModelForMaskedLM", tmp_path)
    assert int8.load(tmp_path).bert
    with safe_open(tmp_path / int8.FILE, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = file.metadata()
    del kept["bert.embeddings.LayerNorm.bias"]
    save_file(kept, tmp_path / int8.FILE, metadata=told)
    with pytest.raises(UserError, match=r"does not hold bert\.embeddings\.LayerNorm\.bias, which BertForMaskedLM has$"):
        int8.load(tmp_path)


def test_a_pruned_model_has_its_smallest_entries_zero_and_transformers_loads_it(tmp_path):
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
        patch.setattr(export_benchmark, "ROUNDS", 1)
        exported(folder, onnx=True)
    return folder


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], TEXTS * 5, ["the " * 29]])
def test_the_graph_takes_any_number_of_samples_and_of_tokens(graph, texts):
    made = onnx_export.Session(graph / "model.onnx")(**inputs(graph, texts)).logits
    assert torch.allclose(made, trained(graph, texts), atol=1e-4)


def test_the_code_of_the_card_runs(graph, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (graph / "README.md").read_text(), re.DOTALL)
    exec(code.replace("path/to/this/folder", str(graph)), {})
    assert "array(" in capsys.readouterr().out


def test_a_graph_can_be_quantised(graph, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes((graph / "model.onnx").read_bytes())
    onnx_export.quantize(file)
    assert file.stat().st_size < (graph / "model.onnx").stat().st_size
    made = onnx_export.Session(file)(**inputs(graph)).logits
    assert torch.allclose(made, trained(graph), atol=0.3)
    assert not torch.equal(made, trained(graph))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_pruning_and_quantisation_together(tmp_path):
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
def test_wrong_options_are_refused_and_nothing_is_written(tmp_path, wanted, what):
    with pytest.raises(UserError, match=what):
        exported(tmp_path / "out", **wanted)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(
        UserError, match=r"^--format onnx: onnxruntime not installed \(pip install 'launcher\[onnx\]'\)$"
    ):
        exported(tmp_path / "out", onnx=True)


@pytest.mark.parametrize("kept", [9, 20])
def test_a_best_evaluation_without_a_checkpoint_is_noted(tmp_path, printed, kept):
    folder = RunDir(shutil.copytree("runs/sorter", tmp_path / "copy"))
    lines = [
        json.dumps({"step": 20, "eval/loss": 9.0 if kept == 20 else 0.1}),
        json.dumps({"step": 40, "eval/loss": 0.2}),
    ]
    folder.metrics.write_text("\n".join([*lines, ""]))
    told = "loss was best at step 20, of which no checkpoint is there: step 40 is taken"
    shutil.rmtree(folder.checkpoints / "step-00000020")
    note = best_note(folder, folder.saved("best"), "best")
    assert note == (None if kept == 20 else f"note: {told} (evaluate.save_best keeps the best)")
    assert best_note(folder, folder.saved("latest"), "latest") is None


def test_the_table_is_not_cut(printed):
    metrics = dict.fromkeys((f"a_long_metric_{n}" for n in range(9)), 0.12345)
    lines = printed(
        lambda console: export_benchmark.show(
            [export_benchmark.MeasuredModel("pruned-0.3-onnx-int8", 9, 1.0, metrics)], [], console
        )
    )
    assert "…" not in "".join(lines)
    assert "".join(lines).count("0.1") >= 9


def test_without_options_the_checkpoint_is_exported_unchanged(tmp_path):
    assert re.search(r": \d files, .* checkpoint of step 40$", exported(tmp_path / "out"))


RESNET = {
    "kind": "config", "type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
    "layer_type": "basic",
}  # fmt: skip


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder with a run of a small ResNet with frozen batch norms, and one with group norms in their place."""
    folder = tmp_path_factory.mktemp("album")
    image_files.folder(folder / "pictures", 24, size=(16, 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, norms in (("frozen", {"freeze": ["resnet"]}), ("group", {"batch_norm": "group"})):
            recipe = {
                "name": name, "seed": 3, "model": {**RESNET, **norms}, "task": {"kind": "image_classification"},
                "data": {"train": {"kind": "image_folder", "path": "pictures"}, "validation": {"fraction": 0.25}},
                "train": {"global_batch": 12, "steps": 1}, "optimizer": {"kind": "adamw", "lr": 0.01},
            }  # fmt: skip
            support.launcher("run", support.write(recipe, f"{name}.yaml"), "--ranks", 1)
    return folder


def test_a_model_with_frozen_batch_norms_is_quantised(album, tmp_path, monkeypatch):
    monkeypatch.chdir(album)
    exported(tmp_path / "out", "runs/frozen", int8=True)
    predict.predict("runs/frozen", "latest", "pictures", tmp_path / "told.jsonl", Console(quiet=True))
    assert len((tmp_path / "told.jsonl").read_text().splitlines()) == 24


def test_a_model_with_group_norms_is_exported_as_onnx_only(album, tmp_path, monkeypatch):
    monkeypatch.chdir(album)
    with pytest.raises(UserError, match=r"batch norms .* plain transformers does not know \(take --format onnx\)$"):
        exported(tmp_path / "none", "runs/group", int8=True)
    exported(tmp_path / "out", "runs/group", onnx=True)
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "Its input is `pixel_values`, float32 of shape (samples, 1, 16, 12): pixels from 0 to 1, less the mean" in card
    )
    images = torch.rand(3, 1, 16, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = load_run("runs/group", "latest").model(pixel_values=images).logits
    made = onnx_export.Session(tmp_path / "out" / "model.onnx")(pixel_values=images).logits
    assert torch.allclose(made, expected, atol=1e-4)


def test_a_decoder_starts_with_the_token_of_training(tmp_path, printed):
    model = {"kind": "config", "type": "bart", "d_model": 16, "max_position_embeddings": 64, "dropout": 0.0}
    model |= {f"{side}_{key}": n for side in ("encoder", "decoder")
              for key, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip
    recipe = support.mlm("pairs", task={"kind": "seq2seq"}, model=model, train__steps=2, optimizer__lr=0.05)
    recipe["data"]["train"] = {"kind": "jsonl", "path": "corpus.jsonl", "target": "label"}
    support.launcher("run", support.write(recipe, str(tmp_path / "pairs.yaml")), "--ranks", 1)
    wanted = compression.CompressionOptions(prune=0.1)
    lines = printed(lambda console: export("runs/pairs", 2, tmp_path / "out", "1GiB", console, wanted), 120)
    expected = support.evaluations("runs/pairs")[2]["eval/loss"]
    assert table(lines)["original"]["loss"] == pytest.approx(expected, abs=1e-4)
