import random

import pytest
import support

from launcher.config.tokenizer import TrainTokenizer
from launcher.models import config, small
from launcher.plan.facts import Facts
from launcher.plan.model_requirements import ModelRequirements
from launcher.prepare import tokenizer
from launcher.prepare.encode import Encoder
from launcher.storage import cache_root


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models of some thousand parameters are faster without threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def texts():
    """120 texts of 3 to 20 words."""
    draw = random.Random(1)
    return [" ".join(draw.choices(support.WORDS, k=draw.randint(3, 20))) for _ in range(120)]


@pytest.fixture(scope="session")
def words(texts):
    """A tokenizer of 120 tokens trained from them."""
    return tokenizer.train(TrainTokenizer(vocab_size=120), lambda: texts)


@pytest.fixture(scope="session")
def encoder_of(tmp_path_factory):
    """The encoder of a tokenizer."""

    def make(words):
        folder = tmp_path_factory.mktemp("words")
        words.save_pretrained(folder)
        return Encoder(folder)

    return make


@pytest.fixture(scope="session")
def encoder(words, encoder_of):
    return encoder_of(words)


@pytest.fixture(scope="session")
def endless(texts, encoder_of):
    """The encoder of a tokenizer without special tokens around a text, but with one that ends it, as GPT-2's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    backend.train_from_iterator(texts, trainer)
    return encoder_of(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>"))


@pytest.fixture(scope="session")
def facts_of(words, cache):
    """Facts as preparation would find them, and the tokenizer where they say; `labels` and what else is given."""
    words.save_pretrained(cache_root.prepared("words") / "tokenizer")

    def make(**given):
        known = {
            "digest": "words", "vocab_size": len(words), "pad_token_id": words.pad_token_id,
            "mask_token_id": words.mask_token_id, "special_ids": sorted(words.all_special_ids), "labels": [],
            "longest": 32, "samples": {}, "tokens": {}, "baseline": {},
        }  # fmt: skip
        return Facts.model_validate({**known, **given})

    return make


@pytest.fixture(scope="session")
def tiny():
    """A tiny model for a task in fp64 (BERT, ViT for images, else hidden layers), without dropout, its weights large
    enough to tell samples apart."""

    def make(task, type_=None, **given):
        import torch

        torch.manual_seed(0)
        known, images = task.facts, "Image" in task.auto_class
        wanted = ModelRequirements(
            task.auto_class, task.model_options(), known.vocab_size, known.pad_token_id, known.longest, known.shape
        )
        if not task.auto_class:
            return small.Model(small.Config(type="mlp", hidden=[8])).build(wanted)[0].double().eval()
        if "Seq2Seq" in task.auto_class:
            keys = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout": 0.0, **given}
            return config.Model(config.Config(type="t5", **keys)).build(wanted)[0].double().eval()
        keys = {**support.TINY, "initializer_range": 0.5, **({"patch_size": 4} if images else {}), **given}
        made = config.Config(type=type_ or ("vit" if images else "bert"), **keys)
        return config.Model(made).build(wanted)[0].double().eval()

    return make
