"""The model card of an export: model, data, recipe, metrics, and lines of Python that load it."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

from launcher.config import plugins, strict_json
from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts, of_run
from launcher.plan.padding_probe import Padding
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import Environment
from launcher.tools.export.card_snippets import PIPELINES, load_lines
from launcher.tools.export.export_inputs import padding_side
from launcher.tools.trained_model import TrainedModel, is_transformers

if TYPE_CHECKING:
    import torch


_TASKS = {"mlm": "masked language modelling", "causal_lm": "causal language modelling", "seq2seq": "texts from texts"}
"""Descriptions of kinds of tasks whose name is not clear."""


def checkpoint_card(folder: RunDir, saved: SavedCheckpoint, recipe: Recipe, model: "torch.nn.Module") -> str:
    """Return the Markdown card of a checkpoint that plain transformers can load."""
    facts = of_run(folder.path)
    load = python(load_lines(_auto_class(recipe), recipe, facts))
    if padding_side(recipe, model, facts) is Padding.NONE:
        load += "\n\nPadding changes the outputs of this model: give it one text at a time, or texts of one length."
    return _card(folder, saved, recipe, model, facts, load, [])


def compressed_card(
    trained: TrainedModel, model: "torch.nn.Module", options: str, lines: Sequence[str], paragraphs: Sequence[str]
) -> str:
    """Return the Markdown card of a compressed export.

    `model`: the original model; `options`: how it was compressed; `lines`: Python that loads the folder; `paragraphs`:
    changes and measurements.
    """
    section = ["## Made small", f"It is {options}.", *paragraphs]
    return _card(trained.folder, trained.saved, trained.recipe, model, trained.facts, python(lines), section)


def _auto_class(recipe: Recipe) -> str:
    return plugins.task(recipe.inner_task).auto_class


def _card(
    folder: RunDir, saved: SavedCheckpoint, recipe: Recipe, model: "torch.nn.Module", facts: Facts, load: str,
    compression: Sequence[str],
) -> str:  # fmt: skip
    metrics = checkpoint_metrics(saved)
    architecture = str(model.config.model_type) if is_transformers(model) else ""
    front = {
        "library_name": "transformers" if architecture else None,
        "pipeline_tag": PIPELINES.get(_auto_class(recipe)),
        "tags": [*([architecture] if architecture else []), recipe.task.kind],
        "metrics": [name for name in metrics if name != "loss" and "/" not in name],
    }
    parts = [
        f"---\n{_yaml({key: value for key, value in front.items() if value})}---",
        f"# {recipe.name}",
        _description(saved, recipe, model, facts),
        "## How to load it",
        load,
        "## Metrics",
        metrics_section(saved, metrics),
        *compression,
        "## Data",
        _data(recipe, facts),
        "## Recipe",
        f"```yaml\n{folder.recipe.read_text(encoding='utf-8')}```",
        "## Software",
        software_section(folder),
    ]
    return "\n\n".join(parts) + "\n"


def checkpoint_metrics(saved: SavedCheckpoint) -> dict[str, float]:
    """Return the metrics of the evaluation at this checkpoint; empty: there is none. Raises DamagedFile."""
    values = saved.state.get("evaluation") or {}
    return {key.removeprefix("eval/"): value for key, value in values.items() if key.startswith("eval/")}


def metrics_section(saved: SavedCheckpoint, metrics: Mapping[str, float]) -> str:
    """Return the metrics of a checkpoint as a table."""
    if not metrics:
        return f"This checkpoint, of step {saved.step:,}, was not evaluated."
    rows = [(name, f"{value:.4f}") for name, value in metrics.items()]
    return f"Of step {saved.step:,}, on the validation samples.\n\n{table(('metric', 'value'), rows)}"


def _description(saved: SavedCheckpoint, recipe: Recipe, model: "torch.nn.Module", facts: Facts) -> str:
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
    """Return the versions and the commit of the last start; empty: none were recorded. Raises DamagedFile."""
    if not strict_json.exists(folder.environment):
        return Environment()
    return strict_json.read(folder.environment, Environment, "launcher run writes it again")


def software_section(folder: RunDir) -> str:
    """Return the versions of Python and its packages as a table. Raises DamagedFile."""
    known = environment(folder)
    rows = [("Python", known.python)] if known.python else []
    rows += known.versions.items()
    rows += [("git commit", f"`{known.git}`")] if known.git else []
    return table(("software", "version"), rows)


def python(lines: Sequence[str]) -> str:
    """Return a Markdown block of Python code."""
    return "\n".join(["```python", *lines, "```"])


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table. All columns except the first are right-aligned."""
    align = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in (head, align, *rows))


def _yaml(value: Mapping[str, object]) -> str:
    yaml, out = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(value, out)
    return out.getvalue()
