"""Dynamic int8 quantisation of linear layers by torch: quantise, save as safetensors, load."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from launcher.config.errors import UserError
from launcher.models._transformers import save_configuration
from launcher.prepare import remote_code

FILE = "model.int8.safetensors"
_SCALE = ".weight_scale"


def quantized(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy on the CPU whose linear layers have int8 weights, with a scale for each row. Inputs are quantised
    at run time."""
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    with _ignored_warnings():
        copy: torch.nn.Module = quantize_dynamic(model, {torch.nn.Linear: per_channel_dynamic_qconfig})
    return copy


def layers(model: torch.nn.Module) -> list[str]:
    """Return the names of the quantised layers."""
    kind = torch.ao.nn.quantized.dynamic.Linear
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


def save(model: torch.nn.Module, auto: str, folder: Path) -> None:
    """Save a quantised transformers model and its configuration. `auto`: the transformers auto class."""
    from safetensors.torch import save_file

    names, tensors = layers(model), dict[str, torch.Tensor]()
    for name in names:
        layer = model.get_submodule(name)
        weight = layer.weight()
        tensors[f"{name}.weight"] = weight.int_repr()
        tensors[f"{name}{_SCALE}"] = weight.q_per_channel_scales()
        tensors |= {} if layer.bias() is None else {f"{name}.bias": layer.bias()}
    inside = tuple(f"{name}." for name in names)
    state = {name: t for name, t in model.state_dict().items() if not name.startswith(inside)}
    tensors |= {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_configuration(model, folder)
    save_file(tensors, folder / FILE, metadata={"format": "pt", "auto_class": json.dumps(auto)})


def load(folder: str | Path, attention: str | None = None) -> torch.nn.Module:
    """Load a model that `save` wrote, in eval mode. It is called like the original transformers model. `attention`:
    implementation of attention. Raises UserError for a file without one of the parameters."""
    import transformers
    from safetensors import safe_open
    from safetensors.torch import load_file

    file = Path(folder) / FILE
    with safe_open(file, framework="pt") as opened:
        auto = json.loads(opened.metadata()["auto_class"])
    options = {"attn_implementation": attention} if attention else {}
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not attention:
        remote_code.refuse_kernels(folder, "attention")
    model: torch.nn.Module = getattr(transformers, auto).from_config(
        config, dtype=torch.float32, trust_remote_code=False, **options
    )
    tensors = load_file(file)
    names = [key.removesuffix(_SCALE) for key in tensors if key.endswith(_SCALE)]
    quantized_layers = {
        name: _layer(tensors.pop(f"{name}.weight"), tensors.pop(f"{name}{_SCALE}"), tensors.pop(f"{name}.bias", None))
        for name in names
    }
    new = set(model.load_state_dict(tensors, strict=False).missing_keys)
    for name, layer in quantized_layers.items():
        model.set_submodule(name, layer)
    if missing := [name for name, _ in model.named_parameters() if name in new]:
        raise UserError(f"{file}: does not hold {missing[0]}, which {type(model).__name__} has")
    return model.eval()


def _layer(weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
    """Return a quantised linear layer. weight: int8, shape (out, in); scale: shape (out,)."""
    layer = torch.ao.nn.quantized.dynamic.Linear(weight.shape[1], weight.shape[0], bias is not None)
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with _ignored_warnings():
        layer.set_weight_bias(torch._make_per_channel_quantized_tensor(weight, scale, zeros, 0), bias)
    return layer


@contextmanager
def _ignored_warnings() -> Iterator[None]:
    """Ignore, inside the block, torch's warning that torchao will replace this."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
