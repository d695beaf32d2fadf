"""A model as ONNX, and a session of onnxruntime that can be asked like a model."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from launcher.config.errors import UserError, first_line

Inputs = dict[str, torch.Tensor]


def check_installed() -> None:
    """Raises UserError where what the export needs is not there."""
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx: {', '.join(missing)} not installed (pip install 'launcher[onnx]')")


def write(model: torch.nn.Module, inputs: Inputs, file: Path) -> None:
    """Export with any number of samples, and of tokens where inputs are such. `inputs`: by name, two samples or more.
    Raises UserError where torch cannot."""
    whole = _whole(inputs)
    with torch.no_grad():
        names = list(_named(model(**whole)))
    shapes = tuple(_dynamic(tensor) for tensor in whole.values())
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx", "onnxscript"):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Positional(model, list(whole)), tuple(whole.values()), dynamo=True, dynamic_shapes={"values": shapes},
                input_names=list(whole), output_names=names, verbose=False,
            )  # fmt: skip
            program.save(str(file))
    except torch.onnx.OnnxExporterError as error:
        what = first_line(error.__cause__ or error)[:300]
        raise UserError(f"--format onnx: {type(model).__name__} cannot be exported: {what}") from None


def quantize(file: Path) -> None:
    """The weights of matrix products as int8, in place."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    aside = file.with_name(f".{file.name}")
    read = onnx.load(file)
    del read.graph.value_info[:]  # shapes that torch noted before it folded constants
    with _quiet("root"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(read, aside, weight_type=QuantType.QInt8, per_channel=True)
    aside.replace(file)


class Session(torch.nn.Module):  # type: ignore[misc]
    """An ONNX file that is called as the model was."""

    def __init__(self, file: Path):
        import onnxruntime

        super().__init__()
        self.register_parameter("dtype", torch.nn.Parameter(torch.empty(0)))  # tasks ask a model what it computes in
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._outputs = [one.name for one in self._session.get_outputs()]

    def forward(self, **inputs: torch.Tensor) -> Any:
        whole = _whole(inputs)
        given = {name: whole[name].numpy() for name in self._inputs}
        made = self._session.run(self._outputs, given)
        return SimpleNamespace(**{n: torch.from_numpy(v) for n, v in zip(self._outputs, made, strict=True)})


class _Positional(torch.nn.Module):  # type: ignore[misc]
    """A model whose inputs come in an order, and whose outputs are a tuple of tensors."""

    def __init__(self, model: torch.nn.Module, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_named(self.model(**dict(zip(self.names, values, strict=True)))).values())


def _named(output: Any) -> dict[str, torch.Tensor]:
    """The tensors of a model's output by name."""
    if isinstance(output, torch.Tensor):
        return {"logits": output}
    return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}


def _whole(inputs: Inputs) -> Inputs:
    """With the attention mask, which is left out where nothing is padded."""
    if "input_ids" in inputs and "attention_mask" not in inputs:
        return {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
    return dict(inputs)


def _dynamic(tensor: torch.Tensor) -> dict[int, Any]:
    """Which axes may have another size: samples, and the tokens of whole numbers."""
    axes = (0, 1) if tensor.ndim == 2 and not tensor.is_floating_point() else (0,)
    return dict.fromkeys(axes, torch.export.Dim.DYNAMIC)


@contextlib.contextmanager
def _quiet(*names: str) -> Any:
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
