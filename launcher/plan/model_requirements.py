"""Requirements of the task and the data on a model, equal for the plan and for all ranks."""

from dataclasses import dataclass, field

from launcher.config import plugins
from launcher.config.recipe import Recipe
from launcher.config.types import JsonObject
from launcher.plan.facts import Facts


@dataclass(frozen=True)
class ModelRequirements:
    """Requirements on a model.

    `auto_class`: name of a transformers auto class; empty: no auto class takes the task's inputs. `options`: model
    options of the task, such as num_labels. `shape`: shape of a sample without tokens, such as (channels, height,
    width) or (features,). `guessed`: the data is not prepared yet, so that the shape may change. `begin_token_id`,
    `end_token_id`: tokens around a text. `generation`: generation options of the task. `max_length`: tokens of the
    longest sample. `target_length`: tokens of the longest target of a decoder, else 0.
    """

    auto_class: str
    options: JsonObject
    vocab_size: int
    pad_token_id: int
    max_length: int
    shape: tuple[int, ...] = ()
    guessed: bool = False
    begin_token_id: int | None = None
    end_token_id: int | None = None
    generation: JsonObject = field(default_factory=dict)
    target_length: int = 0


def of(recipe: Recipe, facts: Facts) -> ModelRequirements:
    """Return the requirements of a recipe."""
    task = plugins.task(recipe.task)(recipe.task, facts)
    longest, target = (
        min(facts.longest, limit) for limit in (recipe.data.max_length, recipe.inner_task.longest_target)
    )
    return ModelRequirements(
        task.auto_class, task.model_options(), facts.vocab_size, facts.pad_token_id, longest, facts.shape,
        guessed=not facts.digest, begin_token_id=facts.begin_token_id, end_token_id=facts.end_token_id,
        generation=task.generation_options(), target_length=target,
    )  # fmt: skip
