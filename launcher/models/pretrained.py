"""A transformers model with pretrained weights, from the Hugging Face hub or from a folder."""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Literal, TypeVar

from launcher import models
from launcher.config.atomic_files import expanded, is_dir
from launcher.config.errors import Problem, UserError, first_line
from launcher.config.tokenizer import PretrainedTokenizer
from launcher.config.trust import TrustRemoteCode
from launcher.config.types import HubRepository
from launcher.models import _modeling_modules
from launcher.models._adaptation import adapted
from launcher.models._new_weights import renew, renewed
from launcher.models._transformers import TransformersConfig, check_length, complete, fit, make
from launcher.plan.model_requirements import ModelRequirements
from launcher.prepare import remote_code
from launcher.storage import cache_root

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

T = TypeVar("T")


class Config(TransformersConfig):
    """A transformers model with pretrained weights."""

    kind: Literal["pretrained"] = "pretrained"
    name: str
    """Name on the hub, or path of a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Default: its main branch."""
    trust_remote_code: TrustRemoteCode = False
    """Run code from the model's folder, with your permissions."""

    @property
    def trusted_source(self) -> str | None:
        return self.name if self.trust_remote_code else None

    @property
    def hub_repository(self) -> HubRepository:
        return HubRepository(self.name, self.revision, self.trust_remote_code)


class Model(models.Model[Config]):
    @property
    def imports(self) -> tuple[str, ...]:
        # the commit of a name on the hub is not known yet; all have the same type
        known = [Path(cache_root.found(self.config.name)), *cache_root.copies(self.config.name)]
        return max(map(_modeling_modules.of_folder, known), key=len)

    def tokenizer(self) -> PretrainedTokenizer:
        trusted = self.config.trust_remote_code
        return PretrainedTokenizer(name=self.config.name, revision=self.config.revision, trust_remote_code=trusted)

    def build(self, requirements: ModelRequirements, weights: bool = True) -> "tuple[torch.nn.Module, list[str]]":
        import transformers

        transformers.utils.logging.disable_progress_bar()
        folder = expanded(self.config.name)
        name = cache_root.found(self.config.name, self.config.revision)
        if name == self.config.name and not is_dir(folder) and name.startswith((".", "/", "~")):
            raise UserError(Problem("model.name", f"{self.config.name}: no such folder"))
        if self.config.trust_remote_code:
            remote_code.elsewhere(self.config.name, remote_code.CONFIG, "model.trust_remote_code", self.config.revision)
        if not weights:
            trusted = self.config.trust_remote_code
            model = _loading(
                self.config, lambda: make(_fitted(name, self.config, requirements), self.config, requirements, trusted)
            )
            renew(model, self.config)
            return adapted(model, self.config)[0], []
        model, new = _loading(self.config, lambda: _loaded(name, self.config, requirements))
        check_length(model, requirements)
        drawn = renew(model, self.config)
        model, notes = adapted(model, self.config, [*new, *drawn])
        return model, _new(self.config, new) + renewed(drawn) + notes + _pickled(name)


def _fitted(name: str, config: Config, requirements: ModelRequirements) -> "PretrainedConfig":
    import transformers

    trusted = config.trust_remote_code
    hf = transformers.AutoConfig.from_pretrained(name, revision=config.revision, trust_remote_code=trusted)
    if not (trusted or config.attention):
        remote_code.refuse_kernels(config.name, "model.name", config.revision)
    return fit(hf, config, requirements, resize=False)


def _loaded(name: str, config: Config, requirements: ModelRequirements) -> "tuple[torch.nn.Module, list[str]]":
    """Load the model. Returns it, and the names of the parameters that are missing in the folder or have another shape
    there."""
    import transformers

    options = {"attn_implementation": config.attention} if config.attention else {}
    model, info = getattr(transformers, requirements.auto_class).from_pretrained(
        name, config=_fitted(name, config, requirements), revision=config.revision, dtype="float32",
        output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=config.trust_remote_code,
        weights_only=True, **options,
    )  # fmt: skip
    complete(model, requirements)
    new = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    return model, sorted(new & dict(model.named_parameters()).keys())


def _loading(config: Config, action: Callable[[], T]) -> T:
    """Run an action, and translate errors of transformers and the hub into UserError."""
    try:
        with remote_code.refused(config.name, remote_code.CONFIG, "model.name", "model", config.revision):
            return action()
    except UnpicklingError:
        what = f"{config.name}: its weights are a pickle with more than tensors in it, which is not loaded"
        raise UserError(Problem("model.name", f"{what} (save them as safetensors)")) from None
    except (ValueError, ImportError) as error:
        raise UserError(Problem("model", f"{config.name}: {first_line(error)}")) from None
    except OSError as error:
        todo = "run `launcher prepare` where the hub can be reached, or name a local folder"
        raise UserError(Problem("model.name", f"{config.name}: {first_line(error)} ({todo})")) from None


def _pickled(name: str) -> list[str]:
    """Return a note if the weights of a folder are only in a pickle, else an empty list."""
    folder = Path(name)
    if any(folder.glob("*.safetensors")) or not (files := sorted(folder.glob("*.bin"))):
        return []
    return [f"{files[0]}: a pickle, of which tensors alone are read (as safetensors, they need no such care)"]


def _new(config: Config, names: list[str]) -> list[str]:
    return [f"new weights, not in {config.name}: {', '.join(names)}"] if names else []
