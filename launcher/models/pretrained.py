"""Pretrained weights from the Hugging Face hub, or from a folder that transformers can load."""

from pathlib import Path
from typing import Any, Literal

from launcher.config.errors import Problem, UserError
from launcher.config.recipe import PretrainedTokenizer
from launcher.models._transformers import ModelConfig, check_length, fit, make
from launcher.plan import store
from launcher.plan.need import Need


class Config(ModelConfig):
    kind: Literal["pretrained"] = "pretrained"
    name: str
    revision: str | None = None


def tokenizer(config: Config) -> PretrainedTokenizer:
    return PretrainedTokenizer(name=config.name, revision=config.revision)


def build(config: Config, need: Need, weights: bool = True) -> tuple[Any, list[str]]:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder = Path(config.name).expanduser()
    name = store.found(config.name, config.revision)
    if name == config.name and not folder.is_dir() and name.startswith((".", "/", "~")):
        raise UserError(Problem("model.name", f"{config.name}: no such folder"))
    try:
        hf = transformers.AutoConfig.from_pretrained(name, revision=config.revision)
        hf = fit(hf, config, need, resize=False)
        if not weights:
            return make(hf, config, need), []
        options = {"attn_implementation": config.attention} if config.attention else {}
        auto = getattr(transformers, need.auto_class)
        model, info = auto.from_pretrained(
            name, config=hf, revision=config.revision, dtype="float32", output_loading_info=True,
            ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    except (ValueError, ImportError) as error:
        raise UserError(Problem("model", f"{config.name}: {str(error).splitlines()[0]}")) from None
    except OSError as error:
        todo = "run `launcher prepare` where the hub can be reached, or name a local folder"
        raise UserError(Problem("model.name", f"{config.name}: {str(error).splitlines()[0]} ({todo})")) from None
    check_length(model, need)
    new = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    return model, [f"new weights, not in {config.name}: {', '.join(new)}"] if new else []
