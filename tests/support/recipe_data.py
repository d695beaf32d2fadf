"""Local data of the form that the shipped recipes read, and tiny models in the place of pretrained ones."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

import support

TEXT = "{kind: text, path: corpus.txt, document: line}"
TINY = "hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 32, dropout: 0.1"


def write(folder: Path) -> Path:
    """Everything, into this folder."""
    support.corpus(folder)
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    _lines(folder / "questions.jsonl", [{"question": row["text"], "label": row["label"]} for row in rows])
    _lines(folder / "pairs.jsonl", [_pair(row["text"]) for row in rows])
    _lines(folder / "tagged.jsonl", [_tagged(row["text"]) for row in rows])
    _lines(folder / "squad.jsonl", [_asked(row["text"]) for row in rows])
    _lines(folder / "news.jsonl", [{"article": row["text"], "highlights": row["text"].split()[0]} for row in rows])
    _images(folder / "images")
    encoder(folder / "bert"), _decoder(folder / "gpt2"), _both(folder / "t5"), _resnet(folder / "resnet")
    return folder


def table(file: Path, rows: int, seed: int = 0) -> None:
    """A CSV of texts and labels that depend on their length."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        draw = random.Random(seed)
        for _ in range(rows):
            words = draw.choices(support.WORDS, k=draw.randint(3, 40))
            writer.writerow([" ".join(words), ["short", "medium", "long"][min(2, len(words) // 14)]])


def _lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _pair(text: str) -> dict[str, Any]:
    """How long the first is, which is all that the second tells."""
    words = text.split()
    return {"sentence1": text, "sentence2": words[0], "label": len(words) / 10}


def _tagged(text: str) -> dict[str, Any]:
    """A word that is long is a name, and those after it go on with it."""
    words, tags = text.split(), list[str]()
    for word in words:
        inside = len(word) > 5
        tags.append("O" if not inside else "I-NAME" if tags and tags[-1] != "O" else "B-NAME")
    return {"tokens": words, "ner_tags": tags}


def _asked(text: str) -> dict[str, Any]:
    answer = max(text.split(), key=len)
    return {
        "question": "which word is the longest", "context": text,
        "answers": {"text": [answer], "answer_start": [text.index(answer)]},
    }  # fmt: skip


def _images(folder: Path) -> None:
    """Dark and light ones, of 32 x 32 pixels in colour."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 190)):
        (folder / label).mkdir(parents=True)
        for number in range(40):
            pixels = np.clip(draw.normal(level, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:02}.png")


def _words(folder: Path, **special: str) -> Any:
    """A tokenizer of whole words, saved there."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = list(dict.fromkeys(special.values()))
    listed = sorted({*support.WORDS, *["which", "word", "is", "the", "longest", "summarize", ":"]})
    vocabulary = {word: number for number, word in enumerate([*names, *listed])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if "cls_token" in special:
        ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
    elif "</s>" in vocabulary:
        backend.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    made.save_pretrained(folder)
    return made


def _save(auto: str, config: Any, folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    getattr(transformers, auto).from_config(config).save_pretrained(folder)


def encoder(folder: Path) -> None:
    """A small BERT with a tokenizer of whole words."""
    from transformers import BertConfig

    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    words = _words(folder, **special)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sizes["initializer_range"] = 0.2  # so that what an adapter is put into tells texts apart
    config = BertConfig(vocab_size=len(words), **sizes)
    _save("AutoModelForMaskedLM", config, folder)


def _decoder(folder: Path) -> None:
    from transformers import GPT2Config

    words = _words(folder, unk_token="<unk>", eos_token="<end>")
    config = GPT2Config(vocab_size=len(words), n_embd=16, n_layer=2, n_head=2, n_positions=64)
    _save("AutoModelForCausalLM", config, folder)


def _both(folder: Path) -> None:
    from transformers import T5Config

    words = _words(folder, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = T5Config(vocab_size=len(words), pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, **sizes)
    _save("AutoModelForSeq2SeqLM", config, folder)


def _resnet(folder: Path) -> None:
    from transformers import ResNetConfig

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5)
    _save("AutoModelForImageClassification", config, folder)
