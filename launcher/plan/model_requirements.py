"""What a model has to fit: decided by the task and the data, the same for the plan and for every rank."""

from dataclasses import dataclass, field
from typing import Any

from launcher.config import plugins
from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts


@dataclass(frozen=True)
class ModelRequirements:
    """`auto_class`: a transformers auto class by name; empty: none takes what the task gives. `options`: model options
    that the task decides (num_labels). `shape`: of one sample where it is no text, such as (channels, height, width) or
    (features,); `guessed`: the data is not prepared yet, and may turn out to be of another. `begin_token_id`,
    `end_token_id`: what stands before and after a text; `generation`: of transformers' generation configuration, what
    the task decides. `max_length`: tokens of the longest sample; `target_length`: of the longest target, where a
    sample has a second text for a decoder (else 0)."""

    auto_class: str
    options: dict[str, Any]
    vocab_size: int
    pad_token_id: int
    max_length: int
    shape: tuple[int, ...] = ()
    guessed: bool = False
    begin_token_id: int | None = None
    end_token_id: int | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    target_length: int = 0


def of(recipe: Recipe, facts: Facts) -> ModelRequirements:
    task = plugins.task(recipe.task)(recipe.task, facts)
    longest, target = (min(facts.longest, most) for most in (recipe.data.max_length, recipe.inner_task.longest_target))
    return ModelRequirements(
        task.auto_class, task.model_options(), facts.vocab_size, facts.pad_token_id, longest, facts.shape,
        guessed=not facts.digest, begin_token_id=facts.begin_token_id, end_token_id=facts.end_token_id,
        generation=task.generation_options(), target_length=target,
    )  # fmt: skip
