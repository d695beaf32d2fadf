"""The model of another run: its encoder goes on, and a head that the task lacks is newly made."""

from pathlib import Path
from typing import Any, Literal

from launcher.config.errors import Problem, UserError
from launcher.models._transformers import ModelConfig, fit, make
from launcher.plan import store
from launcher.plan.folder import RunFolder
from launcher.plan.need import Need


class Config(ModelConfig):
    """`checkpoint`: latest, best or a step. `weights: random` takes the architecture and the tokenizer alone, which is
    what a run should be compared with."""

    kind: Literal["run"] = "run"
    run: str
    checkpoint: Literal["latest", "best"] | int = "latest"
    weights: Literal["trained", "random"] = "trained"


def tokenizer(config: Config) -> str | None:
    return str(RunFolder(Path(store.found(config.run))).tokenizer)


def build(config: Config, need: Need, weights: bool = True) -> tuple[Any, list[str]]:
    import transformers

    folder = RunFolder(Path(store.found(config.run)))
    if not (folder.model / "config.json").is_file():
        raise UserError(
            Problem("model.run", f"{config.run}: no run is there (train it first: its recipe names the folder)")
        )
    hf = fit(transformers.AutoConfig.from_pretrained(folder.model), config, need, resize=False)
    model = make(hf, config, need)
    if not weights or config.weights == "random":
        return model, []
    return model, _load(model, folder, config)


def _load(model: Any, folder: RunFolder, config: Config) -> list[str]:
    from launcher.run import checkpoint

    try:
        saved = folder.saved(config.checkpoint)
    except UserError as error:
        raise UserError([Problem("model.checkpoint", str(p)) for p in error.problems]) from None
    saved.verify()
    new = checkpoint.load_weights(model, saved)
    taken = sum(1 for _ in model.named_parameters()) - len(new)
    if not taken:
        raise UserError(Problem("model.run", f"{saved.path} holds no weight of {type(model).__name__}"))
    notes = [f"{taken} weights taken from {saved.path}"]
    return notes + ([f"new weights, not in it: {', '.join(new)}"] if new else [])
