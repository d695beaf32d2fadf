"""The model card of an export: what it is, how it was made, what it reached, how to load it."""

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts
from launcher.plan.folder import RunFolder, Saved

if TYPE_CHECKING:
    import torch

_PIPELINES = {
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
}
_INPUTS = {"fill-mask": 'f"This is a {pipe.tokenizer.mask_token}."'}


def text(folder: RunFolder, saved: Saved, recipe: Recipe, model: "torch.nn.Module", auto: str) -> str:
    """The card as Markdown. `auto`: the transformers auto class that loads the model."""
    facts = Facts.model_validate_json(folder.facts.read_text(encoding="utf-8"))
    pipeline, metrics = _PIPELINES.get(auto), _metrics(saved)
    front = {
        "library_name": "transformers",
        "pipeline_tag": pipeline,
        "tags": [str(model.config.model_type), recipe.task.kind],
        "metrics": [name for name in metrics if name != "loss" and "/" not in name],
    }
    parts = [
        f"---\n{_yaml({key: value for key, value in front.items() if value})}---",
        f"# {recipe.name}",
        _what(saved, recipe, model, facts),
        "## How to load it",
        _load(auto, pipeline),
        "## Metrics",
        _reached(saved, metrics),
        "## Data",
        _data(recipe, facts),
        "## Recipe",
        f"```yaml\n{folder.recipe.read_text(encoding='utf-8')}```",
        "## Software",
        _software(folder),
    ]
    return "\n\n".join(parts) + "\n"


def _metrics(saved: Saved) -> dict[str, float]:
    """What the run's validation samples gave at this checkpoint: nothing where none was made there."""
    told = saved.state.get("evaluation") or {}
    return {key.removeprefix("eval/"): value for key, value in told.items() if key.startswith("eval/")}


def _reached(saved: Saved, metrics: dict[str, float]) -> str:
    if not metrics:
        return f"This checkpoint, of step {saved.step:,}, was not evaluated."
    rows = [(name, f"{value:.4f}") for name, value in metrics.items()]
    return f"Of step {saved.step:,}, on the validation samples.\n\n{_table(('metric', 'value'), rows)}"


def _what(saved: Saved, recipe: Recipe, model: "torch.nn.Module", facts: Facts) -> str:
    task = {"mlm": "masked language modelling"}.get(recipe.task.kind, recipe.task.kind.replace("_", " "))
    parameters = sum(p.numel() for p in model.parameters())
    seen = f"{saved.state['samples']:,} samples and {saved.state['tokens']:,} tokens"
    labels = f" Labels: {', '.join(f'`{label}`' for label in facts.labels)}." if facts.labels else ""
    return (
        f"A `{type(model).__name__}` of {parameters:,} parameters, trained for {task}: the checkpoint of step "
        f"{saved.step:,}, which had seen {seen}.{labels}"
    )


def _load(auto: str, pipeline: str | None) -> str:
    lines = [
        f"from transformers import {auto}, AutoTokenizer" + (", pipeline" if pipeline else ""),
        "",
        'folder = "path/to/this/folder"',
        f"model = {auto}.from_pretrained(folder)",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]
    if pipeline:
        given = _INPUTS.get(pipeline, '"This is a text."')
        lines += ["", f'pipe = pipeline("{pipeline}", model=model, tokenizer=tokenizer)', f"print(pipe({given}))"]
    return "\n".join(["```python", *lines, "```"])


def _data(recipe: Recipe, facts: Facts) -> str:
    rows = [(side, f"{count:,}", f"{facts.tokens[side]:,}") for side, count in facts.samples.items()]
    source = recipe.data.train.model_dump(mode="json", exclude_defaults=True)
    named = ", ".join(f"{key} `{value}`" for key, value in {"kind": recipe.data.train.kind, **source}.items())
    return f"Source: {named}.\n\n{_table(('side', 'samples', 'tokens'), rows)}"


def _software(folder: RunFolder) -> str:
    file = folder.path / "environment.json"
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rows = [("Python", known["python"])] if "python" in known else []
    rows += known.get("versions", {}).items()
    rows += [("git commit", f"`{known['git']}`")] if known.get("git") else []
    return _table(("software", "version"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; all but the first column are numbers or versions."""
    align = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in (head, align, *rows))


def _yaml(value: dict[str, Any]) -> str:
    yaml, out = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(value, out)
    return out.getvalue()
