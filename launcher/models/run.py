"""The model of another run: its encoder goes on, and a head that the task lacks is newly made."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError

from launcher import models
from launcher.config import kinds, load, messages, plugins
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.kinds import TrustRemoteCode
from launcher.config.types import RunReference
from launcher.models._adaptation import adapted, group, plain
from launcher.models._transformers import TransformersConfig, fit, make, renew, renewed, take_generation
from launcher.plan import remote_code
from launcher.plan.model_requirements import ModelRequirements
from launcher.storage import cache_root
from launcher.storage.run_dir import RunDir


class Config(TransformersConfig):
    """`checkpoint`: latest, best or a step. `weights: random` takes the architecture and the tokenizer alone, which is
    what a run should be compared with. `trust_remote_code`: run the code that the run took from elsewhere, as you."""

    kind: Literal["run"] = "run"
    run: str
    checkpoint: Literal["latest", "best"] | int = "latest"
    weights: Literal["trained", "random"] = "trained"
    trust_remote_code: TrustRemoteCode = False

    @property
    def run_reference(self) -> RunReference:
        return RunReference(self.run, self.checkpoint, self.weights == "trained", self.adapter is not None)

    @model_validator(mode="after")
    def _allowed_run(self) -> Self:
        """While a recipe is read: the model of a run may be somebody else's code."""
        if kinds.is_read():
            folder = RunDir(Path(cache_root.found(self.run)))
            try:
                with kinds.reading(folder.recipe):
                    _said(folder)
            except UserError as error:
                told = str(getattr(error.problems[0], "what", error.problems[0]))
                raise PydanticCustomError("run", "{what}", {"what": told}) from None
        return self


class Model(models.Model):
    imports = ("transformers.modeling_utils",)

    def __init__(self, config: Config):
        self.config = config

    def tokenizer(self) -> str | None:
        folder = RunDir(Path(cache_root.found(self.config.run)))
        has_none = folder.recipe.is_file() and not folder.tokenizer.exists()  # its samples were no texts
        return None if has_none else str(folder.tokenizer)

    def build(self, need: ModelRequirements, weights: bool = True) -> tuple[Any, list[str]]:
        folder = RunDir(Path(cache_root.found(self.config.run)))
        model = _made(folder, self.config, need)
        notes, new = list[str](), list[str]()
        if weights and self.config.weights == "trained":
            new, notes = _load(model, folder, self.config)
        model = plain(model)
        new = [name for name in (n.replace(".base_layer", "") for n in new) if name in dict(model.named_parameters())]
        drawn = renew(model, self.config) if hasattr(model, "base_model") else _nothing_to_renew(model, self.config)
        model, told = adapted(model, self.config, [*new, *drawn])
        notes += [f"new weights, not in it: {', '.join(new)}"] if new else []
        return model, notes + renewed(drawn) + told if weights else []


def _made(folder: RunDir, config: Config, need: ModelRequirements) -> Any:
    """The run's architecture, with its adapter if it has one, newly initialised."""
    said = _said(folder)
    if (folder.model / "config.json").is_file():
        import transformers

        trusted = config.trust_remote_code
        with remote_code.refused(Path(config.run) / "model", "config.json", "model.run", "model"):
            hf = transformers.AutoConfig.from_pretrained(folder.model, trust_remote_code=trusted)
            if not (trusted or config.attention):
                remote_code.refuse_kernels(folder.model, "model.run")
            model = make(fit(hf, config, need, resize=False), config, need, trusted)
        take_generation(model, folder.model, need)
        if getattr(hf, "batch_norm", None) == "group":
            group(model)
        if getattr(said, "adapter", None):
            from launcher.models import _peft

            _peft.inject(model, said.adapter)
        return model
    if said is None:
        what = f"{config.run}: no run is there (train it first: its recipe names the folder)"
        raise UserError(Problem("model.run", what))
    for key in ("dropout", "attention_dropout", "attention"):
        if getattr(config, key) is not None:
            what = f"the model of {config.run} is a {said.kind} one: only transformers models can be told this"
            raise UserError(Problem(f"model.{key}", what))
    return plugins.model(said).build(need, weights=False)[0]


def _said(folder: RunDir) -> Any:
    """What the run's recipe says of its model; None: there is no recipe."""
    model = load.plain(folder.recipe).get("model") if folder.recipe.is_file() else None
    if model is None:
        return None
    kind = model.get("kind") if isinstance(model, dict) else model
    try:
        return kinds.module("models", str(kind)).Config.model_validate(model)
    except ValueError as error:
        raise UserError(Problem("model.run", f"{folder.recipe}: model: {_first(error)}")) from None


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return first_line(error)
    return messages.of(error.errors()[0])


def _load(model: Any, folder: RunDir, config: Config) -> tuple[list[str], list[str]]:
    """Read the weights of the checkpoint. Returns the names of those that stay new, and a note."""
    from launcher.train import checkpoint

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
    return new, notes


def _nothing_to_renew(model: Any, config: Config) -> list[str]:
    if config.head or config.reinit_layers:
        key = "model.head" if config.head else "model.reinit_layers"
        raise UserError(
            Problem(key, f"{type(model).__name__} is no transformers model, whose head could be told apart")
        )
    return []
