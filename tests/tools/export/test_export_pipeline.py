"""What plain transformers predicts with an exported folder, by the lines of its model card, is what `launcher predict`
predicts: for every task that can be exported, and every way to begin a run of it. A new task is covered by being there.

Takes longer than 5 s: it alone trains, exports and loads each of them again.
"""

import ast
import dataclasses
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import support
import torch
import transformers
from rich.console import Console
from support import image_files, ranks

from launcher import worker
from launcher.config import kinds
from launcher.distributed.process_group import RankInfo, connect
from launcher.distributed.stop_requests import StopMonitor
from launcher.plan import _model_spec_process, model_spec
from launcher.prepare.encode import Encoder
from launcher.tools.export import card_snippets
from launcher.tools.export.export import export
from launcher.tools.prediction import predict
from launcher.tools.trained_model import load_run

pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = "it is red green blue now".split()  # noqa: SIM905
LENGTH = 16
BERT = {"type": "bert", **support.TINY}
GPT2 = {"type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 48, "dropout": 0.0}
T5 = {"type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout": 0.0}
BART = {"type": "bart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 48}
BART |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32) | {"dropout": 0.0}
BART |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
XLNET = {"type": "xlnet", "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32, "dropout": 0.0}
XLNET |= {"use_mems_eval": False}  # the pipeline of transformers cannot part memories into samples
VIT = {"type": "vit", **support.TINY, "patch_size": 4}
MODELS = {"AutoModelForCausalLM": GPT2, "AutoModelForSeq2SeqLM": T5, "AutoModelForImageClassification": VIT}
GENERATE = {"max_new_tokens": 12}
TASKS: dict[str, dict[str, Any]] = {
    "causal_lm": {"samples": "documents", "generate": GENERATE},
    "distillation": {"task": {"kind": "sequence_classification"}, "teacher": {"run": "runs/sequence_classification"}},
    "image_classification": {"size": 8, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.2]},
    "reward": {"reward": "launcher.tasks._rewards:vowels", "completions": 2, "max_new_tokens": 12},
    "seq2seq": {"prefix": "go: ", "max_target_length": LENGTH, "generate": GENERATE},
    "question_answering": {"stride": 4},
}
"""Keys of kinds beside their name."""
LEARNING = {"causal_lm": 40, "seq2seq": 40, "token_classification": 20}
"""Steps after which texts end by themselves, and some words are tagged."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A run: of a task, with a model, and a tokenizer where it is not trained from the texts."""

    name: str
    kind: str
    model: dict[str, Any]
    keys: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokenizer: str | None = None
    source: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def task(self):
        return {"kind": self.kind, **TASKS.get(self.kind, {}), **self.keys}


def auto_class(kind):
    inner = TASKS.get(kind, {}).get("task", {}).get("kind", kind)
    return kinds.module("tasks", inner).Task.auto_class


def exportable():
    """Runs that others start from come first."""
    found = [kind for kind in kinds.available("tasks") if auto_class(kind)]
    return sorted(found, key=lambda kind: (kind == "distillation", kind))


def run_of(name, **given):
    return {"kind": "run", "run": f"runs/{name}", **given}


def folder_of(name):
    return {"kind": "pretrained", "name": f"exports/{name}"}


SCRATCH = [Case(kind, kind, {"kind": "config", **MODELS.get(auto_class(kind), BERT)}) for kind in exportable()]
VARIANTS = [
    Case("several", "sequence_classification", {"kind": "config", **BERT}, {"labels": "multi"}),
    Case("pairs", "sequence_classification", {"kind": "config", **BERT}, source={"text_pair": "pair"}),
    Case("ended", "sequence_classification", {"kind": "config", **GPT2}, tokenizer="padded"),
    Case("typeless", "sequence_classification", {"kind": "config", **GPT2}),
    Case("pooled", "sequence_classification", {"kind": "config", **BART}),
    Case("pooled-last", "sequence_classification", {"kind": "config", **XLNET}),
    Case("spaced", "token_classification", {"kind": "config", **GPT2}, tokenizer="endless"),
    Case("written", "causal_lm", {"kind": "config", **GPT2}, tokenizer="endless"),
    Case("answered", "question_answering", {"kind": "config", **GPT2}, {"no_answer": True}, tokenizer="padded"),
    Case("translated", "seq2seq", {"kind": "config", **BART}),
    Case("again", "regression", run_of("several")),
    Case("named", "sequence_classification", run_of("regression")),
    Case("tagged", "token_classification", run_of("regression")),
    Case("filled", "mlm", run_of("several")),
    Case("asked", "question_answering", run_of("mlm")),
    Case("rewarded", "reward", run_of("causal_lm")),
    Case("sorted", "sequence_classification", run_of("written"), {"labels": "multi"}),
]
"""Architectures and tokenizers that differ in what they need to know, and runs that begin from another task's."""
FOLDERS = [Case(f"{one.name}-again", one.kind, folder_of(one.name), one.keys, source=one.source) for one in SCRATCH] + [
    Case("spaced-again", "token_classification", folder_of("spaced")),
    Case("written-again", "causal_lm", folder_of("written")),
    Case("several-once", "sequence_classification", folder_of("several")),
    Case("regression-once", "sequence_classification", folder_of("regression"), {"labels": "multi"}),
]
CASES = {one.name: one for one in [*SCRATCH, *VARIANTS, *FOLDERS]}


def rows(count, seed=0, most=7):
    """Rows with every column that a task may ask for, of 2 to `most` words."""
    draw = random.Random(seed)
    for _ in range(count):
        words = ["it", "is", *draw.choices(WORDS[2:], k=draw.randint(0, most - 2))]
        text = " ".join(words)
        yield {
            "text": text, "pair": " ".join(words[::-1][:3]), "label": ("red", "other")["red" not in words],
            "number": len(words) / 4, "several": sorted({"red", "blue"} & {*words}), "target": " ".join(words[1:3]),
            "words": words, "labels": ["B-C" if word in ("red", "blue") else "O" for word in words],
            "question": "it is", "context": text,
            "answers": {"text": [words[-1]], "answer_start": [text.rfind(" ") + 1]},
        }  # fmt: skip


def byte_tokenizer(folder, **tokens):
    """A tokenizer without special tokens around a text, like that of GPT-2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = sorted({*tokens.values()})
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator([" ".join(["", *WORDS])] * 9, trainer)
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(folder)


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory):
    """A folder with the data and the tokenizers, where runs are trained as tests ask for them, in this process."""
    folder = tmp_path_factory.mktemp("pipelines")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows(60))) + "\n")
    image_files.folder(folder / "images", channels=3)
    byte_tokenizer(folder / "endless", eos_token="<|end|>")
    byte_tokenizer(folder / "padded", eos_token="<|end|>", pad_token="<|pad|>")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(model_spec, "_run_child", lambda question: _model_spec_process._answer(json.loads(question)))
        yield folder


def recipe(case):
    label = {"regression": "number"}.get(case.kind, "several" if case.keys.get("labels") == "multi" else "label")
    source = {"kind": "jsonl", "path": "rows.jsonl", "label": label, **case.source}
    if "Image" in auto_class(case.kind):
        source = {"kind": "image_folder", "path": "images"}
    own = case.model["kind"] == "config" and "Image" not in auto_class(case.kind)
    changes = {} if own else {"tokenizer": None}
    changes |= {"tokenizer": {"kind": "pretrained", "name": case.tokenizer}} if case.tokenizer else {}
    return support.mlm(
        case.name, model=case.model, task=case.task, data__train=source, data__max_length=LENGTH, optimizer__lr=0.02,
        data__validation=None, train={"global_batch": 8, "steps": LEARNING.get(case.kind, 4)}, **changes,
    )  # fmt: skip


def exported(name):
    """The folder of a case's export, made with all that it begins from where it is not there yet."""
    case, to = CASES[name], Path("exports", name)
    if to.is_dir():
        return to
    teacher = case.task.get("teacher", {}).get("run")
    for begin in (case.model.get("run"), case.model.get("name"), teacher):
        if begin:
            exported(Path(begin).name)
    worker.train(ranks.ready(support.write(recipe(case), f"{name}.yaml")), connect(RankInfo()), StopMonitor())
    export(f"runs/{name}", "latest", to, "1GiB", Console(quiet=True))
    return to


def predicted(name, given):
    """The lines of `launcher predict` for rows."""
    Path("given.jsonl").write_text("\n".join(map(json.dumps, given)) + "\n")
    Path("told.jsonl").unlink(missing_ok=True)
    source = json.dumps({"kind": "jsonl", "path": "given.jsonl", **CASES[name].source})
    predict.predict(f"runs/{name}", "latest", source, Path("told.jsonl"), Console(quiet=True))
    return [json.loads(line) for line in Path("told.jsonl").read_text().splitlines()]


def by_card(folder, given):
    """The output of the code of the model card for these inputs, in batches of 3."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace("path/to/this/folder", str(folder)).replace("model=model", "model=model, batch_size=3")
    for stands, value in given.items():
        assert stands in code, code
        code = code.replace(stands, repr(value))
    told = []
    exec(code, {"print": told.append})
    return told[0]


def literal(text):
    return f'"{text}"'


def test_a_task_that_transformers_has_a_class_for_can_be_exported():
    assert len(SCRATCH) >= 9
    assert {auto_class(one.kind) for one in SCRATCH} <= set(CHECKS)


@pytest.mark.parametrize("name", sorted(CASES))
def test_transformers_predicts_what_the_launcher_does(name):
    folder = exported(name)
    CHECKS[auto_class(CASES[name].kind)](name, folder)


def ragged():
    """Rows of different lengths, one beyond the model's maximum."""
    return [*rows(6, seed=1), *rows(1, seed=3, most=60)]


def classified(name, folder):
    case, given = CASES[name], ragged()
    pairs = case.source
    texts = [{"text": row["text"], "text_pair": row["pair"]} if pairs else row["text"] for row in given]
    stands = (
        json.dumps({"text": card_snippets.TEXT, "text_pair": card_snippets.TEXT_PAIR})
        if pairs
        else literal(card_snippets.TEXT)
    )
    columns = ("text", "pair") if pairs else ("text",)
    told = predicted(name, [{column: row[column] for column in columns} for row in given])
    found = by_card(folder, {stands: texts})
    if case.kind == "regression":
        assert [one["score"] for one in found] == pytest.approx([one["value"] for one in told], abs=1e-6)
    elif case.keys.get("labels") == "multi":
        each = [{one["label"]: one["score"] for one in every} for every in found]
        for scores, one in zip(each, told, strict=True):
            assert scores == pytest.approx(one["probabilities"], abs=1e-6)
    else:
        assert [one["label"] for one in found] == [one["label"] for one in told]
        assert [one["score"] for one in found] == pytest.approx([one["probability"] for one in told], abs=1e-6)


def tagged(name, folder):
    """Words are joined by spaces. The first token of a word tells its tag."""
    given = ragged()[:-1]
    told = predicted(name, [{"words": row["words"]} for row in given])
    found = by_card(folder, {literal(card_snippets.TEXT): [row["text"] for row in given]})
    for row, one, entities in zip(given, told, found, strict=True):
        starts = [len(" ".join([*row["words"][:n], ""])) for n in range(len(one["tags"]))]
        spans = [(entity["start"], entity["end"], entity["entity_group"]) for entity in entities]
        named = [next((kind for start, end, kind in spans if start - 1 <= place < end), "O") for place in starts]
        assert named == [(tag or "O").removeprefix("B-") for tag in one["tags"]]
    assert any(found)


def continued(name, folder):
    given = [{"text": text} for text in ("it", "it is", "it is red green", " ".join(["it is"] * 20))]
    found = [
        one[0]["generated_text"] for one in by_card(folder, {literal(card_snippets.TEXT): [r["text"] for r in given]})
    ]
    new = [text.removeprefix(row["text"]).strip() for text, row in zip(found, given, strict=True)]
    if CASES[name].kind == "causal_lm":
        assert new == [one["continuation"] for one in predicted(name, given)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer([row["text"] for row in given[:3]], padding=True, return_tensors="pt")
    made = model.generate(**{key: inputs[key] for key in ("input_ids", "attention_mask")}, do_sample=False)
    encoder, ends = Encoder(Path("runs", name, "tokenizer")), model.config.eos_token_id
    assert ends == model.generation_config.eos_token_id == tokenizer.eos_token_id == encoder.suffix[-1]
    inside = encoder.backend.encode(given[2]["text"], add_special_tokens=False).ids
    assert inputs["input_ids"][2].tolist() == [*encoder.prefix.tolist(), *inside]
    if CASES[name].kind == "causal_lm":
        assert (made[:, inputs["input_ids"].shape[1] :] == ends).any(), "no text ends"


def written(name, folder):
    given = ragged()
    told = [one["target"] for one in predicted(name, [{"text": row["text"]} for row in given])]
    found = by_card(folder, {f'["{card_snippets.TEXT}"]': [row["text"] for row in given]})
    assert [text.strip() for text in found] == told
    assert any(told)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert model.config.eos_token_id == model.generation_config.eos_token_id is not None
    assert model.config.decoder_start_token_id == model.generation_config.decoder_start_token_id is not None


def filled(name, folder):
    trained = load_run(f"runs/{name}", "latest")
    encoder = Encoder(trained.folder.tokenizer)
    texts = ["it is [MASK]", "it is [MASK] and green now", "[MASK]"]
    stands = f'f"{card_snippets.TEXT[:-1]} {{tokenizer.mask_token}}."'
    for text, found in zip(texts, by_card(folder, {stands: texts}), strict=True):
        inside = encoder.backend.encode(text, add_special_tokens=False).ids
        ids = torch.tensor([[*encoder.prefix.tolist(), *inside, *encoder.suffix.tolist()]])
        with torch.no_grad():
            expected = trained.model(input_ids=ids).logits[0, ids[0] == trained.facts.mask_token_id].softmax(-1)[0]
        assert [one["token"] for one in found] == expected.topk(len(found)).indices.tolist()
        assert [one["score"] for one in found] == pytest.approx(expected.topk(len(found)).values.tolist(), abs=1e-6)


def answered(name, folder):
    given = ragged()[3:]
    told = predicted(name, [{key: row[key] for key in ("question", "context")} for row in given])
    for row, one in zip(given, told, strict=True):
        stands = {literal(card_snippets.TEXT): row["question"], literal(card_snippets.CONTEXT): row["context"]}
        found = by_card(folder, stands)
        assert found["answer"] == one["answer"]
        assert found["score"] == pytest.approx(one["score"], abs=1e-5)


def seen(name, folder):
    """Images of other sizes than those that the model was trained on, too."""
    sizes = ((8, 8), (12, 9), (5, 16))
    for number, size in enumerate(sizes):
        image_files.save(image_files.pixels(number, size, channels=3), Path("new", "dark", f"{number}.png"))
    Path("seen.jsonl").unlink(missing_ok=True)
    predict.predict(
        f"runs/{name}", "latest", "{kind: image_folder, path: new}", Path("seen.jsonl"), Console(quiet=True)
    )
    told = [json.loads(line) for line in Path("seen.jsonl").read_text().splitlines()]
    files = [f"new/dark/{number}.png" for number in range(len(sizes))]
    best = [max(one, key=lambda each: each["score"]) for one in by_card(folder, {literal(card_snippets.IMAGE): files})]
    assert [one["label"] for one in best] == [one["label"] for one in told]
    assert [one["score"] for one in best] == pytest.approx([one["probability"] for one in told], abs=1e-6)


CHECKS = {
    "AutoModelForCausalLM": continued,
    "AutoModelForImageClassification": seen,
    "AutoModelForMaskedLM": filled,
    "AutoModelForQuestionAnswering": answered,
    "AutoModelForSeq2SeqLM": written,
    "AutoModelForSequenceClassification": classified,
    "AutoModelForTokenClassification": tagged,
}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("several", "multi_label_classification"),
        ("named", "single_label_classification"),
        ("again", "regression"),
        ("tagged", None),
        ("filled", None),
        ("image_classification", "single_label_classification"),
    ],
)
def test_the_kind_of_problem_is_that_of_the_task_whatever_the_start_model_was_for(name, said):
    config = json.loads((exported(name) / "config.json").read_text())
    assert config.get("problem_type") == said
    assert json.loads(Path("runs", name, "model", "config.json").read_text()).get("problem_type") == said


@pytest.mark.parametrize("name", ["several", "causal_lm", "seq2seq", "ended"])
def test_runs_of_versions_that_did_not_write_it_down_are_exported_alike(name, tmp_path):
    """Their configuration lacks the kind of problem, and names tokens of the architecture's usual tokenizer."""
    exported(name)
    run = Path(shutil.copytree(Path("runs", name), tmp_path / name))
    file = run / "model" / "config.json"
    known = json.loads(file.read_text())
    usual = transformers.CONFIG_MAPPING[known["model_type"]]().to_dict()
    known |= {key: usual.get(key) for key in known if key.endswith("_token_id") and key != "pad_token_id"}
    file.write_text(json.dumps({**known, "problem_type": None}))
    (run / "model" / "generation_config.json").unlink(missing_ok=True)
    export(str(run), "latest", tmp_path / "out", "1GiB", Console(quiet=True))
    for file in ("config.json", "generation_config.json"):
        if Path("exports", name, file).is_file():
            assert told_in(tmp_path / "out" / file) == told_in(Path("exports", name, file))


def told_in(file):
    """The keys of a configuration for the kind of problem, tokens, and generation."""
    known = json.loads(file.read_text())
    names = [key for key in known if key.endswith("_token_id")]
    return {key: known.get(key) for key in (*names, "problem_type", "max_new_tokens", "do_sample", "num_beams")}


def test_training_goes_on_from_an_export_with_the_tokens_around_texts_that_it_began_with():
    for name in ("causal_lm", "written", "ended", "sequence_classification"):
        one, other = (Encoder(folder) for folder in (Path("runs", name, "tokenizer"), exported(name)))
        assert (one.prefix.tolist(), one.suffix.tolist()) == (other.prefix.tolist(), other.suffix.tolist())


def test_the_code_of_a_card_is_python():
    for name in ("seq2seq", "question_answering"):
        (code,) = re.findall(r"```python\n(.*?)```", (exported(name) / "README.md").read_text(), re.DOTALL)
        assert ast.parse(code)
