"""The recipe's tokenizer: trained on its data, or an existing one."""

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from launcher.config.base_model import Strict, one_of
from launcher.config.trust import TrustRemoteCode


class TrainTokenizer(Strict):
    """A tokenizer trained on the training data. The same data and keys give the same tokenizer."""

    kind: Literal["train"] = "train"
    """`train`: train a tokenizer."""
    algorithm: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    """Algorithm of the tokenizer."""
    vocab_size: int = Field(gt=10, le=10_000_000)
    """Maximum number of tokens, special tokens included. A small sample gives fewer."""
    lowercase: bool = True
    """Lower-case texts first."""
    min_frequency: int = Field(2, ge=1)
    """Minimum number of occurrences for a merge (bpe, wordpiece) or for a candidate piece (unigram)."""
    unicode: Literal["none", "nfc", "nfd", "nfkc", "nfkd"] | None = None
    """Unicode normal form of texts. Default: none (wordpiece, lower-case bpe), nfc (bpe) or nfkc (unigram)."""
    strip_accents: bool | None = None
    """Remove accents. Default: the value of `lowercase`, as in BERT; false for bpe."""
    sample: int | None = Field(1_000_000, gt=0)
    """Maximum number of training documents to train from; null: all."""


class PretrainedTokenizer(Strict):
    """A tokenizer of the Hugging Face hub, or of a folder that transformers can load."""

    kind: Literal["pretrained"] = "pretrained"
    """`pretrained`: load a tokenizer."""
    name: str
    """Name on the hub, or path of a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Default: its main branch."""
    trust_remote_code: TrustRemoteCode = False
    """Run code that the tokenizer's folder brings, with your permissions."""

    @property
    def trusted_source(self) -> str | None:
        """Name of the folder or repository whose code the recipe allows to run; None: no such code is run."""
        return self.name if self.trust_remote_code else None


_KINDS: dict[str, type[Strict]] = {"train": TrainTokenizer, "pretrained": PretrainedTokenizer}
Tokenizer = Annotated[SerializeAsAny[TrainTokenizer | PretrainedTokenizer] | None, one_of(_KINDS)]
"""The section, or None: the model's own tokenizer."""
