"""The model's configuration in a run folder, by which the run can be loaded without the source of the model."""

import shutil
from pathlib import Path

import torch

from launcher.config import strict_json
from launcher.config.model import ModelConfig
from launcher.models._transformers import save_configuration
from launcher.prepare import remote_code
from launcher.storage import cache_root
from launcher.storage.partial_folder import filling
from launcher.storage.run_dir import RunDir


def save(model: torch.nn.Module, config: ModelConfig, folder: RunDir) -> None:
    """Write RUN/model if the model is one of transformers, unless a configuration is there that is not damaged. It
    includes the model's code if the user trusts it."""
    if not hasattr(getattr(model, "config", None), "save_pretrained") or _exists(folder):
        return
    shutil.rmtree(folder.model, ignore_errors=True)  # it may be damaged
    with filling(folder.model) as partial:
        save_configuration(model, partial)
        if config.trusted_source is not None and config.source is not None:
            name, revision, file = config.source
            remote_code.copy_code(Path(cache_root.found(name, revision), file).parent, partial)


def _exists(folder: RunDir) -> bool:
    """Return whether RUN/model has a configuration that is not damaged."""
    try:
        strict_json.read_object(folder.model / "config.json", "")
    except strict_json.DamagedFile:
        return False
    return True
