"""Policy gradients: a small causal language model writes completions of prompts, and learns to write what a function of
the user's scores higher, without leaving the model that it was.

REINFORCE, with the mean reward of the other completions of the same prompt as baseline (RLOO: Kool, van Hoof and
Welling, 2019): a prompt's loss is its own, whatever it shares a batch with. All that is sampled is a function of
(seed, epoch, prompt, completion, position), and of the model.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from launcher import tasks
from launcher.config import kinds
from launcher.config.errors import Problem, UserError
from launcher.config.types import TaskConfig
from launcher.contract import random
from launcher.storage import cache_root
from launcher.tasks import (
    Batch,
    Directions,
    Features,
    Outputs,
    Row,
    Sample,
    _causality_probe,
    _exact_sums,
    _token_batches,
)

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts
    from launcher.prepare.encode import Encoder
    from launcher.tasks._completion_sampling import CompletionSampler


class Config(TaskConfig):
    """Policy gradient from a reward function on generated completions."""

    kind: Literal["reward"] = "reward"
    reward: str
    """Function `(prompt: str, completion: str) -> float`, as mypkg.rewards:score or mypkg.rewards.score, importable
    from the current folder too. Both texts are decoded from tokens."""
    completions: int = Field(4, ge=2)
    """Completions of each prompt."""
    max_new_tokens: int = Field(16, ge=1)
    """Maximum number of tokens of a completion. data.max_length bounds prompt and completion together; train.max_tokens
    counts prompts only."""
    temperature: float = Field(1.0, gt=0)
    """Divisor of the logits in sampling and learning."""
    kl: float = Field(0.1, ge=0)
    """Weight per token of the KL divergence from the model at the start of the run."""

    @property
    def sets_length(self) -> bool:
        return True

    @field_validator("reward")
    @classmethod
    def _is_there(cls, value: str) -> str:
        try:
            kinds.function(value)
        except ValueError as error:
            raise PydanticCustomError("reward", "{what}", {"what": str(error)}) from None
        return value


class Task(tasks.Task):
    uses_tokenizer = True
    columns = ("text",)
    targets = ()
    surveyed = ()
    tokenized = True
    auto_class = "AutoModelForCausalLM"
    relative = True

    @staticmethod
    def prepared(config: Config) -> dict[str, Any]:
        return {"features": "prompts", "room": config.max_new_tokens}

    @staticmethod
    def features(
        config: Config,
        rows: Iterable[pa.RecordBatch],
        survey: dict[str, Any],
        encoder: "Encoder",
        length: int,
        key: str,
    ) -> Iterator[Features]:
        """Prompts with the special tokens before a text, not those after it: a completion goes on from there."""
        room = length - config.max_new_tokens - len(encoder.prefix)
        if room < 1:
            what = f"{config.max_new_tokens} leave no room for a prompt in {length} tokens (see data.max_length)"
            raise UserError(Problem("task.max_new_tokens", what))
        for batch in rows:
            encoded = encoder.encode(batch.column("text"))
            there = encoded.lengths > 0
            made = encoded.select(there).truncated(room).between(encoder.prefix, encoder.suffix[:0])
            cut = _token_batches.cut_rows(encoded.lengths, room)
            yield Features(_token_batches.table(made, encoder.vocab_size), int(np.count_nonzero(~there)), cut)

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        """None: what a model without learning is worth, its first evaluation tells (evaluate.at_start)."""
        return {}

    def __init__(self, config: Config, facts: "Facts"):
        self.config, self.facts = config, facts
        self._head: Any = None
        self._reference: Any = None
        self._reference_head: Any = None

    def options(self) -> dict[str, Any]:
        return {"is_decoder": True, "use_cache": False}

    def generation(self) -> dict[str, Any]:
        """Completions are sampled from the whole distribution, as in training."""
        shape = {"max_new_tokens": self.config.max_new_tokens, "temperature": self.config.temperature}
        return {"do_sample": True, "use_cache": True, "top_k": 0, **shape}

    def outputs(self, length: int) -> float:
        return float(self.config.completions * self.config.max_new_tokens * self.facts.vocab_size)

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        """Prompts, with the numbers in [0, 1) that their completions are sampled by: shape (completions, steps)."""
        shape = (self.config.completions, self.config.max_new_tokens)
        counters = np.reshape(epochs, (-1, 1)), np.reshape(ids, (-1, 1)), np.arange(shape[0] * shape[1])
        draws = random.uniform(random.draws(draw.seed, draw.stream, *counters)[0]).reshape(-1, *shape)
        return [
            {"input_ids": row["input_ids"].astype(np.int64), "draws": drawn, "counts": np.ones(1)}
            for row, drawn in zip(rows, draws, strict=True)
        ]

    def weight(self, sample: Sample) -> float:
        return float(sample["counts"][0])

    def zero_weight(self, sample: Sample) -> Sample:
        return {**sample, "counts": np.zeros(1)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return {
            **_token_batches.inputs(samples, self.facts.pad_token_id),
            "lengths": np.array([len(sample["input_ids"]) for sample in samples]),
            "draws": np.stack([sample["draws"] for sample in samples]),
            "counts": np.concatenate([sample["counts"] for sample in samples]),
        }

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        """Take the model as it is for the reference: before a checkpoint is loaded, so the same after a resume."""
        import copy

        from launcher.tasks import _completion_sampling, _masked_head

        ids = batch["inputs"]["input_ids"]
        _causality_probe.check(model, ids)
        self._check_length(model, ids)
        notes = _completion_sampling.without_dropout(model, ids)
        self._reference = copy.deepcopy(model).eval().requires_grad_(False)
        self._head, self._reference_head = (
            _masked_head.attach(one, {"input_ids": ids}, batch["lengths"][:1] - 1) for one in (model, self._reference)
        )
        return notes

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        return self._played(model, batch)["loss"].sum(), float(batch["counts"].sum())

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        played = self._played(model, batch)
        prompts = zip(batch["inputs"]["input_ids"].cpu().numpy(), batch["lengths"].tolist(), strict=True)
        return {**played, "weight": batch["counts"], "prompt": [ids[:length] for ids, length in prompts]}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """`reward`: the mean of all completions; `kl`: the mean of their tokens; `length`: the mean of their tokens'
        number."""
        prompts, tokens = (_exact_sums.total(outputs, name) for name in ("weight", "tokens"))
        rewards = math.fsum(float(one.mean()) * w for one, w in zip(outputs["rewards"], outputs["weight"], strict=True))
        return {
            "loss": _exact_sums.mean_loss(outputs),
            "reward": rewards / max(1.0, prompts),
            "kl": _exact_sums.total(outputs, "kl") / max(1.0, tokens),
            "length": tokens / max(1.0, prompts * self.config.completions),
        }

    def directions(self) -> Directions:
        return {"loss": "min", "reward": "max", "kl": "min", "length": "min"}

    def predictions(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        """Each prompt and its completions with their rewards."""
        names = ("prompt", "completions", "rewards")
        return [
            {
                "prompt": _decoded(tokenizer, prompt),
                "completions": [_decoded(tokenizer, ids[ids >= 0]) for ids in completions],
                "rewards": [float(reward) for reward in rewards],
            }
            for prompt, completions, rewards in zip(*(outputs[name] for name in names), strict=True)
        ]

    def show(self, sample: Sample, tokenizer: Any) -> str:
        from rich.markup import escape

        return escape(" ".join(tokenizer.convert_ids_to_tokens(sample["input_ids"].tolist()))) + " [bold reverse]…[/]"

    def _played(self, model: "torch.nn.Module", batch: Batch) -> "dict[str, torch.Tensor]":
        """Completions of a micro-batch's prompts and what becomes of them, by prompt: `loss`, `kl` (estimated by k3,
        summed over tokens), `tokens`; `rewards` (n, completions); `completions` (n, completions, steps), -1 where there
        is no token."""
        import torch

        from launcher.tasks import _policy_gradient
        from launcher.tasks._completion_sampling import TokenProbabilities, complete

        many, counts = self.config.completions, batch["counts"]
        prompts, lengths = (v.repeat_interleave(many, 0) for v in (batch["inputs"]["input_ids"], batch["lengths"]))
        policy = TokenProbabilities(model, self._head, self.config.temperature)
        ends, padding = self._ends, self.facts.pad_token_id
        made = complete(policy, prompts, lengths, batch["draws"].flatten(0, 1), ends, padding)
        logs = policy.of(made)
        with torch.no_grad():
            before = TokenProbabilities(self._reference, self._reference_head, self.config.temperature).of(made)
        rewards = self._rewards(batch, made)
        there = made.there.to(logs.dtype)
        lost = _policy_gradient.surrogate(logs, before, there, rewards.flatten().to(logs), self.config.kl, many)
        apart = _policy_gradient.k3(logs.detach(), before) * there
        return {
            "loss": lost * counts.to(lost.dtype),
            "kl": apart.sum(1).view(-1, many).sum(1) * counts,
            "tokens": there.sum(1).view(-1, many).sum(1) * counts,
            "rewards": rewards,
            "completions": torch.where(made.there, made.tokens, -1).view(-1, many, made.tokens.shape[1]),
        }

    def _rewards(self, batch: Batch, made: "CompletionSampler") -> "torch.Tensor":
        """The user's scores, shape (n, completions), fp64; 0 where the prompt has no weight."""
        import torch

        many = self.config.completions
        ids, lengths = batch["inputs"]["input_ids"].tolist(), batch["lengths"].tolist()
        found = np.zeros((len(ids), many))
        for number in np.flatnonzero(batch["counts"].cpu().numpy()).tolist():
            prompt = _decoded(self.tokenizer, ids[number][: lengths[number]])
            for which in range(many):
                row = number * many + which
                completion = _decoded(self.tokenizer, made.tokens[row][made.there[row]].tolist())
                found[number, which] = scored(self._score, self.config.reward, prompt, completion)
        return torch.from_numpy(found).to(made.rows.device)

    def _check_length(self, model: "torch.nn.Module", ids: "torch.Tensor") -> None:
        """Raises UserError where the longest prompt and its completion are too long for the model."""
        import torch

        most = self.facts.longest + self.config.max_new_tokens
        try:
            with torch.no_grad():
                model(input_ids=ids[:1, :1].expand(1, most))
        except (IndexError, RuntimeError, ValueError):
            what = f"prompts of {self.facts.longest} tokens and {self.config.max_new_tokens} more are too long for it"
            raise UserError(Problem("model", f"{what} (shorter ones, or more positions)")) from None

    @cached_property
    def _score(self) -> Callable[[str, str], Any]:
        return kinds.function(self.config.reward)

    @cached_property
    def tokenizer(self) -> Any:
        """That of the prepared data, which its digest names; who has another one sets it."""
        from transformers import AutoTokenizer

        folder = cache_root.prepared(self.facts.digest) / "tokenizer"
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    @cached_property
    def _ends(self) -> list[int]:
        """Tokens that end a text."""
        known = (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)
        return [number for number in known if number is not None]


def scored(score: Callable[[str, str], Any], name: str, prompt: str, completion: str) -> float:
    """The reward of a completion. Raises UserError with what the function was given where it gives no number."""
    given = f"{name}({prompt[-80:]!r}, {completion[:80]!r})"
    try:
        value = score(prompt, completion)
        number = float(value)
    except Exception as error:  # the code of a user may raise anything
        what = f"{given} raised {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(Problem("task.reward", what)) from None
    if not math.isfinite(number):
        raise UserError(Problem("task.reward", f"{given} gave {value}, which is no finite number"))
    return number


def _decoded(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))
