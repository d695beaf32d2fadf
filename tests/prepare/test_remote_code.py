"""Code that a model names in its files."""

import json

import pytest

from launcher.config.errors import UserError
from launcher.prepare import remote_code

EVIL = "evil/kernel"


@pytest.mark.parametrize(
    "config",
    [
        {"_attn_implementation": EVIL},
        {"attn_implementation": EVIL},
        {"_attn_implementation": {"text_config": EVIL, "": "sdpa"}},
        {"text_config": {"_attn_implementation_internal": "x", "attn_implementation": f"{EVIL}@v1:f"}},
        {"parts": [{"_attn_implementation": EVIL}]},
    ],
)
def test_a_kernel_of_the_hub_is_refused_wherever_a_configuration_names_it(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    with pytest.raises(UserError, match=r"config\.json: attn_implementation: names code of the hub \(evil/kernel"):
        remote_code.refuse_kernels(tmp_path, "model.run")


@pytest.mark.parametrize("config", [{}, {"_attn_implementation": "sdpa"}, {"name": "a/b"}])
def test_other_configurations_are_not(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    remote_code.refuse_kernels(tmp_path, "model.run")
