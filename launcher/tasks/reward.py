"""Policy gradients: a small causal language model learns completions that a user's reward function scores higher.

The model stays close to its initial weights. The method is REINFORCE; the baseline is the mean reward of the other
completions of the same prompt (RLOO: Kool, van Hoof and Welling, 2019). A prompt's loss does not depend on the rest of
its batch. All samples are a function of (seed, epoch, prompt, completion, position) and of the model.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

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
    BatchOutputs,
    Directions,
    FeatureContext,
    Features,
    JsonObject,
    Outputs,
    Row,
    Sample,
    _metrics,
    _model_probes,
    _policy_gradient,
    _token_batches,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from launcher.tasks._completion_sampling import Completions
    from launcher.tasks._masked_head import MaskedHead


class Config(TaskConfig):
    """Policy gradient from a reward function on generated completions."""

    kind: Literal["reward"] = "reward"
    reward: str
    """Function `(prompt: str, completion: str) -> float`, written as mypkg.rewards:score or mypkg.rewards.score. Its
    module may be in the current folder. Both texts are decoded from tokens."""
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
    def _check_function(cls, value: str) -> str:
        try:
            kinds.function(value)
        except ValueError as error:
            raise PydanticCustomError("reward", "{what}", {"what": str(error)}) from None
        return value


class Task(tasks.Task[Config]):
    """A sample is a prompt, with the random numbers for its completions."""

    columns = ("text",)
    auto_class = "AutoModelForCausalLM"
    needs_initial_model = True
    uses_tokenizer = True
    _head: "MaskedHead | None" = None
    _reference: "torch.nn.Module | None" = None
    _reference_head: "MaskedHead | None" = None

    @staticmethod
    def preparation_key(config: Config) -> JsonObject:
        return {"features": "prompts", "room": config.max_new_tokens}

    @staticmethod
    def features(config: Config, rows: Iterable[pa.RecordBatch], context: FeatureContext) -> Iterator[Features]:
        """Yield prompts with the special tokens before a text. Those after it are left out, because the completion
        follows."""
        encoder, length = context.encoder, context.max_length
        room = length - config.max_new_tokens - len(encoder.prefix)
        if room < 1:
            what = f"{config.max_new_tokens} leave no room for a prompt in {length} tokens (see data.max_length)"
            raise UserError(Problem("task.max_new_tokens", what))
        for batch in rows:
            encoded = encoder.encode(batch.column("text"))
            nonempty = encoded.lengths > 0
            prompts = encoded.select(nonempty).truncated(room).between(encoder.prefix, encoder.suffix[:0])
            cut = _token_batches.cut_rows(encoded.lengths, room)
            yield Features(_token_batches.table(prompts, encoder.vocab_size), int(np.count_nonzero(~nonempty)), cut)

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        """Return no score: evaluate.at_start measures the reward of the untrained model."""
        return {}

    def model_options(self) -> JsonObject:
        return {"is_decoder": True, "use_cache": False}

    def generation_options(self) -> JsonObject:
        """Return options that sample completions from the whole distribution, as in training."""
        limits = {"max_new_tokens": self.config.max_new_tokens, "temperature": self.config.temperature}
        return {"do_sample": True, "use_cache": True, "top_k": 0, **limits}

    def output_size(self, length: int) -> float:
        return float(self.config.completions * self.config.max_new_tokens * self.facts.vocab_size)

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        """Build prompts with random numbers. `draws`: numbers in [0, 1) for sampling, shape (completions, steps);
        `counts`: the weight, shape (1,)."""
        shape = (self.config.completions, self.config.max_new_tokens)
        counters = np.reshape(epochs, (-1, 1)), np.reshape(ids, (-1, 1)), np.arange(shape[0] * shape[1])
        draws = random.uniform(random.draws(draw.seed, draw.stream, *counters)[0]).reshape(-1, *shape)
        return [
            {"input_ids": row["input_ids"].astype(np.int64), "draws": of_row, "counts": np.ones(1)}
            for row, of_row in zip(rows, draws, strict=True)
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

    def prepare_model(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        """Remove dropout, and copy the model as the reference. A checkpoint is loaded only later, so that a resumed run
        has the same reference."""
        import copy

        from launcher.tasks import _completion_sampling, _masked_head

        ids = batch["inputs"]["input_ids"]
        _model_probes.check_causal(model, ids)
        self._check_positions(model, ids)
        notes = _completion_sampling.remove_dropout(model, ids)
        self._reference = copy.deepcopy(model).eval().requires_grad_(False)
        self._head, self._reference_head = (
            _masked_head.attach(one, {"input_ids": ids}, batch["lengths"][:1] - 1) for one in (model, self._reference)
        )
        return notes

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
        return self._rollout(model, batch)["loss"].sum(), batch["counts"].sum()

    def predict(self, model: "torch.nn.Module", batch: Batch) -> BatchOutputs:
        prompts = zip(batch["inputs"]["input_ids"].cpu().numpy(), batch["lengths"].tolist(), strict=True)
        prompt = [ids[:length] for ids, length in prompts]
        return {**self._rollout(model, batch), "weight": batch["counts"], "prompt": prompt}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """Return the loss and `reward`, the mean over completions; `kl`, the mean over tokens; and `length`, the mean
        number of tokens of a completion."""
        prompts, tokens = (_metrics.total(outputs, name) for name in ("weight", "tokens"))
        rewards = math.fsum(float(one.mean()) * w for one, w in zip(outputs["rewards"], outputs["weight"], strict=True))
        return {
            "loss": _metrics.mean_loss(outputs),
            "reward": rewards / max(1.0, prompts),
            "kl": _metrics.total(outputs, "kl") / max(1.0, tokens),
            "length": tokens / max(1.0, prompts * self.config.completions),
        }

    def directions(self) -> Directions:
        return {"loss": "min", "reward": "max", "kl": "min", "length": "min"}

    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        """Return each prompt and its completions with their rewards."""
        names = ("prompt", "completions", "rewards")
        return [
            {
                "prompt": _decode(tokenizer, prompt),
                "completions": [_decode(tokenizer, ids[ids >= 0]) for ids in completions],
                "rewards": [float(reward) for reward in rewards],
            }
            for prompt, completions, rewards in zip(*(outputs[name] for name in names), strict=True)
        ]

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        return _token_batches.render(sample["input_ids"], tokenizer) + " [bold reverse]…[/]"

    def _rollout(self, model: "torch.nn.Module", batch: Batch) -> "dict[str, torch.Tensor]":
        """Sample completions of a micro-batch's prompts, and return results for each prompt.

        `loss`; `kl`: estimated by k3 and summed over tokens; `tokens`: number of sampled tokens; `rewards`: shape (n,
        completions); `completions`: shape (n, completions, steps), with -1 after the end of a completion.
        """
        import torch

        from launcher.tasks import _completion_sampling
        from launcher.tasks._completion_sampling import TokenLogProbabilities

        assert self._reference is not None, "prepare_model comes first"
        many, counts, temperature = self.config.completions, batch["counts"], self.config.temperature
        prompts, lengths = (v.repeat_interleave(many, 0) for v in (batch["inputs"]["input_ids"], batch["lengths"]))
        policy = TokenLogProbabilities(model, self._head, temperature)
        draws, padding = batch["draws"].flatten(0, 1), self.facts.pad_token_id
        completions = _completion_sampling.sample(policy, prompts, lengths, draws, self._ends, padding)
        logs = policy.of(completions)
        with torch.no_grad():
            reference = TokenLogProbabilities(self._reference, self._reference_head, temperature).of(completions)
        rewards = self._rewards(batch, completions)
        mask = completions.mask.to(logs.dtype)
        loss = _policy_gradient.surrogate(logs, reference, mask, rewards.flatten().to(logs), self.config.kl, many)
        kl = _policy_gradient.k3(logs.detach(), reference) * mask
        steps = completions.tokens.shape[1]
        return {
            "loss": loss * counts.to(loss.dtype),
            "kl": kl.sum(1).view(-1, many).sum(1) * counts,
            "tokens": mask.sum(1).view(-1, many).sum(1) * counts,
            "rewards": rewards,
            "completions": torch.where(completions.mask, completions.tokens, -1).view(-1, many, steps),
        }

    def _rewards(self, batch: Batch, completions: "Completions") -> "torch.Tensor":
        """Return the rewards, shape (n, completions), fp64; 0 if the prompt has no weight."""
        import torch

        many = self.config.completions
        ids, lengths = batch["inputs"]["input_ids"].tolist(), batch["lengths"].tolist()
        rewards = np.zeros((len(ids), many))
        for number in np.flatnonzero(batch["counts"].cpu().numpy()).tolist():
            prompt = _decode(self.tokenizer, ids[number][: lengths[number]])
            for which in range(many):
                row = number * many + which
                text = _decode(self.tokenizer, completions.tokens[row][completions.mask[row]].tolist())
                rewards[number, which] = _policy_gradient.reward(self._function, self.config.reward, prompt, text)
        return torch.from_numpy(rewards).to(completions.rows.device)

    def _check_positions(self, model: "torch.nn.Module", ids: "torch.Tensor") -> None:
        """Raise UserError if the longest prompt with its completion is too long for the model."""
        import torch

        length = self.facts.longest + self.config.max_new_tokens
        try:
            with torch.no_grad():
                model(input_ids=ids[:1, :1].expand(1, length))
        except (IndexError, RuntimeError, ValueError):
            what = f"prompts of {self.facts.longest} tokens and {self.config.max_new_tokens} more are too long for it"
            raise UserError(Problem("model", f"{what} (shorter ones, or more positions)")) from None

    @cached_property
    def _function(self) -> _policy_gradient.RewardFunction:
        return kinds.function(self.config.reward)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":  # type: ignore[override]
        """The tokenizer of the prepared data, unless a caller has assigned another one."""
        from transformers import AutoTokenizer

        folder = cache_root.prepared(self.facts.digest) / "tokenizer"
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    @cached_property
    def _ends(self) -> list[int]:
        """Ids of the tokens that end a text."""
        tokens = (self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)
        return [token for token in tokens if token is not None]


def _decode(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))
