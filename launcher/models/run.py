"""The model of an earlier run: its encoder, and a new head if the task needs another one."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError

from launcher import models
from launcher.config import kinds, load, messages, plugins, trust
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.model import ModelConfig
from launcher.config.trust import TrustRemoteCode
from launcher.config.types import RunReference
from launcher.models import _modeling_modules
from launcher.models._adaptation import adapted, group, plain
from launcher.models._new_weights import renew, renewed
from launcher.models._transformers import TransformersConfig, fit, make, take_generation
from launcher.plan.model_requirements import ModelRequirements
from launcher.prepare import remote_code
from launcher.storage import cache_root
from launcher.storage.run_dir import RunDir

if TYPE_CHECKING:
    import torch


class Config(TransformersConfig):
    """The model of an earlier run."""

    kind: Literal["run"] = "run"
    run: str
    """Folder of the run, such as runs/bert-mini-mlm."""
    checkpoint: Literal["latest", "best"] | int = "latest"
    """Checkpoint: latest, best, or a step."""
    weights: Literal["trained", "random"] = "trained"
    """`trained`: the checkpoint's weights; `random`: the architecture and the tokenizer only, as a baseline."""
    trust_remote_code: TrustRemoteCode = False
    """Run code that the run took from elsewhere, with your permissions."""

    @property
    def trusted_source(self) -> str | None:
        return self.run if self.trust_remote_code else None

    @property
    def run_reference(self) -> RunReference:
        return RunReference(self.run, self.checkpoint, self.weights == "trained", self.adapter is not None)

    @model_validator(mode="after")
    def _allowed_run(self) -> Self:
        """Check the model of the run while a recipe is loaded, because it may be code of somebody else."""
        if trust.is_loading():
            folder = RunDir(Path(cache_root.found(self.run)))
            try:
                with trust.loading(folder.recipe):
                    _recorded_config(folder)
            except UserError as error:
                first = error.problems[0]
                message = first.what if isinstance(first, Problem) else first
                raise PydanticCustomError("run", "{what}", {"what": message}) from None
        return self


class Model(models.Model[Config]):
    @property
    def imports(self) -> tuple[str, ...]:
        return _modeling_modules.of_folder(RunDir(Path(cache_root.found(self.config.run))).model)

    def tokenizer(self) -> str | None:
        folder = RunDir(Path(cache_root.found(self.config.run)))
        has_none = folder.recipe.is_file() and not folder.tokenizer.exists()  # its samples were not texts
        return None if has_none else str(folder.tokenizer)

    def build(self, requirements: ModelRequirements, weights: bool = True) -> "tuple[torch.nn.Module, list[str]]":
        folder = RunDir(Path(cache_root.found(self.config.run)))
        model = _made(folder, self.config, requirements)
        notes, new = list[str](), list[str]()
        if weights and self.config.weights == "trained":
            new, notes = _load(model, folder, self.config)
        model = plain(model)
        new = [name for name in (n.replace(".base_layer", "") for n in new) if name in dict(model.named_parameters())]
        drawn = renew(model, self.config) if hasattr(model, "base_model") else _nothing_to_renew(model, self.config)
        model, adaptations = adapted(model, self.config, [*new, *drawn])
        notes += [f"new weights, not in it: {', '.join(new)}"] if new else []
        return model, notes + renewed(drawn) + adaptations if weights else []


def _made(folder: RunDir, config: Config, requirements: ModelRequirements) -> "torch.nn.Module":
    """Build the run's architecture with new weights and, if it had one, its adapter. Raises UserError."""
    recorded = _recorded_config(folder)
    if (folder.model / "config.json").is_file():
        import transformers

        trusted = config.trust_remote_code
        with remote_code.refused(Path(config.run) / "model", "config.json", "model.run", "model"):
            hf = transformers.AutoConfig.from_pretrained(folder.model, trust_remote_code=trusted)
            if not (trusted or config.attention):
                remote_code.refuse_kernels(folder.model, "model.run")
            model = make(fit(hf, config, requirements, resize=False), config, requirements, trusted)
        take_generation(model, folder.model, requirements)
        if getattr(hf, "batch_norm", None) == "group":
            group(model)
        if recorded is not None and recorded.adapter is not None:
            from launcher.models import _peft

            _peft.inject(model, recorded.adapter)
        return model
    if recorded is None:
        what = f"{config.run}: no run is there (train it first: its recipe names the folder)"
        raise UserError(Problem("model.run", what))
    for key in ("dropout", "attention_dropout", "attention"):
        if getattr(config, key) is not None:
            what = f"the model of {config.run} is a {recorded.kind} one: only transformers models have this key"
            raise UserError(Problem(f"model.{key}", what))
    return plugins.model(recorded).build(requirements, weights=False)[0]


def _recorded_config(folder: RunDir) -> ModelConfig | None:
    """Return the Config of the model in the run's recipe; None: there is no recipe, or no model in it. Raises
    UserError."""
    model = load.plain(folder.recipe).get("model") if folder.recipe.is_file() else None
    if model is None:
        return None
    kind = model.get("kind") if isinstance(model, dict) else model
    try:
        config: ModelConfig = kinds.module("models", str(kind)).Config.model_validate(model)
        return config
    except ValueError as error:
        raise UserError(Problem("model.run", f"{folder.recipe}: model: {_first(error)}")) from None


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return first_line(error)
    return messages.of(error.errors()[0])


def _load(model: "torch.nn.Module", folder: RunDir, config: Config) -> tuple[list[str], list[str]]:
    """Load the weights of the checkpoint. Returns the names of the parameters that were not loaded, and notes. Raises
    UserError."""
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


def _nothing_to_renew(model: "torch.nn.Module", config: Config) -> list[str]:
    if config.head or config.reinit_layers:
        key = "model.head" if config.head else "model.reinit_layers"
        raise UserError(Problem(key, f"{type(model).__name__} is no transformers model, so its head is not known"))
    return []
