"""The model card of an export: what it is, how it was made, what it reached, how to load it."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from launcher.config import plugins, strict_json
from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts, of_run
from launcher.plan.padding_probe import Padding
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import Environment
from launcher.tools.card_snippets import PIPELINES, load_lines
from launcher.tools.export_inputs import padding_side

if TYPE_CHECKING:
    import torch

    from launcher.tools.trained_model import TrainedModel

_TASKS = {"mlm": "masked language modelling", "causal_lm": "causal language modelling", "seq2seq": "texts from texts"}


def text(folder: RunDir, saved: SavedCheckpoint, recipe: Recipe, model: "torch.nn.Module", auto: str) -> str:
    """The card as Markdown. `auto`: the transformers auto class that loads the model."""
    facts = of_run(folder.path)
    load = python(load_lines(auto, recipe, facts))
    if padding_side(recipe, model, facts) is Padding.NONE:
        load += "\n\nPadding changes the outputs of this model: give it one text at a time, or texts of one length."
    return _card(folder, saved, recipe, model, facts, auto, load, [])


def small(
    trained: "TrainedModel", model: "torch.nn.Module", what: str, lines: Sequence[str], told: Sequence[str]
) -> str:
    """The card of an export that was made small. `model`: the original; `lines`: of Python, that load the folder;
    `told`: paragraphs on what was done and what it cost."""
    recipe = trained.recipe
    auto = plugins.task(recipe.inner_task).auto_class
    load = python(lines)
    parts = [("## Made small", "\n\n".join([f"It is {what}.", *told]))]
    return _card(trained.folder, trained.saved, recipe, model, trained.facts, auto, load, parts)


def _card(
    folder: RunDir, saved: SavedCheckpoint, recipe: Recipe, model: Any, facts: Facts, auto: str, load: str,
    more: Sequence[tuple[str, str]],
) -> str:  # fmt: skip
    metrics = _metrics(saved)
    known = getattr(getattr(model, "config", None), "model_type", None)
    front = {
        "library_name": "transformers" if known else None,
        "pipeline_tag": PIPELINES.get(auto),
        "tags": [*([str(known)] if known else []), recipe.task.kind],
        "metrics": [name for name in metrics if name != "loss" and "/" not in name],
    }
    parts = [
        f"---\n{_yaml({key: value for key, value in front.items() if value})}---",
        f"# {recipe.name}",
        _what(saved, recipe, model, facts),
        "## How to load it",
        load,
        "## Metrics",
        _reached(saved, metrics),
        *(part for pair in more for part in pair),
        "## Data",
        _data(recipe, facts),
        "## Recipe",
        f"```yaml\n{folder.recipe.read_text(encoding='utf-8')}```",
        "## Software",
        _software(folder),
    ]
    return "\n\n".join(parts) + "\n"


def _metrics(saved: SavedCheckpoint) -> dict[str, float]:
    """What the run's validation samples gave at this checkpoint: nothing where none was made there."""
    told = saved.state.get("evaluation") or {}
    return {key.removeprefix("eval/"): value for key, value in told.items() if key.startswith("eval/")}


def _reached(saved: SavedCheckpoint, metrics: dict[str, float]) -> str:
    if not metrics:
        return f"This checkpoint, of step {saved.step:,}, was not evaluated."
    rows = [(name, f"{value:.4f}") for name, value in metrics.items()]
    return f"Of step {saved.step:,}, on the validation samples.\n\n{table(('metric', 'value'), rows)}"


def _what(saved: SavedCheckpoint, recipe: Recipe, model: "torch.nn.Module", facts: Facts) -> str:
    task = _TASKS.get(recipe.task.kind, recipe.task.kind.replace("_", " "))
    parameters = sum(p.numel() for p in model.parameters())
    samples, tokens = saved.state.get("samples", 0), saved.state.get("tokens", 0)
    seen = f"{samples:,} samples" + (f" and {tokens:,} tokens" if facts.vocab_size else "")
    labels = f" Labels: {', '.join(f'`{label}`' for label in facts.labels)}." if facts.labels else ""
    return (
        f"A `{type(model).__name__}` of {parameters:,} parameters, trained for {task}: the checkpoint of step "
        f"{saved.step:,}, which had seen {seen}.{labels}"
    )


def _data(recipe: Recipe, facts: Facts) -> str:
    rows = [(side, f"{count:,}", f"{facts.tokens[side]:,}") for side, count in facts.samples.items()]
    head = ("side", "samples", "tokens") if facts.vocab_size else ("side", "samples")
    source = recipe.data.train.model_dump(mode="json", exclude_defaults=True)
    named = ", ".join(f"{key} `{value}`" for key, value in {"kind": recipe.data.train.kind, **source}.items())
    return f"Source: {named}.\n\n{table(head, [row[: len(head)] for row in rows])}"


def environment(folder: RunDir) -> Environment:
    """What the run was last started with, where that was written down. Raises DamagedFile."""
    file = folder.path / "environment.json"
    return (
        strict_json.read(file, Environment, "launcher run writes it again")
        if strict_json.exists(file)
        else Environment()
    )


def _software(folder: RunDir) -> str:
    known = environment(folder)
    rows = [("Python", known.python)] if known.python else []
    rows += known.versions.items()
    rows += [("git commit", f"`{known.git}`")] if known.git else []
    return table(("software", "version"), rows)


def python(lines: Sequence[str]) -> str:
    """A Markdown block of Python."""
    return "\n".join(["```python", *lines, "```"])


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; all but the first column are numbers or versions."""
    align = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in (head, align, *rows))


def _yaml(value: dict[str, Any]) -> str:
    yaml, out = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(value, out)
    return out.getvalue()
