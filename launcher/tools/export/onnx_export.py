"""Export of a model as an ONNX graph, its quantisation, and inference with the graph."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import torch

from launcher.config.errors import UserError, first_line

Inputs = Mapping[str, torch.Tensor]
"""Model inputs by name."""


def check_installed() -> None:
    """Raise UserError if a package that the export needs is not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx: {', '.join(missing)} not installed (pip install 'launcher[onnx]')")


def write(model: torch.nn.Module, inputs: Inputs, file: Path) -> None:
    """Export a graph with a variable number of samples and, if the inputs have tokens, of tokens. `inputs`: an example
    with at least two samples. Raises UserError if torch cannot export the model."""
    inputs = _with_mask(inputs)
    with torch.no_grad():
        outputs = list(_tensors_by_name(model(**inputs)))
    shapes = tuple(_dynamic_axes(tensor) for tensor in inputs.values())
    try:
        with contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx", "onnxscript"):
            program = torch.onnx.export(
                _PositionalModel(model, list(inputs)), tuple(inputs.values()), dynamo=True,
                dynamic_shapes={"values": shapes}, input_names=list(inputs), output_names=outputs, verbose=False,
            )  # fmt: skip
            program.save(str(file))
    except torch.onnx.OnnxExporterError as error:
        what = first_line(error.__cause__ or error)[:300]
        raise UserError(f"--format onnx: {type(model).__name__} cannot be exported: {what}") from None


def quantize(file: Path) -> None:
    """Convert the weights of matrix products to int8, in place."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    aside = file.with_name(f".{file.name}")
    model = onnx.load(file)
    del model.graph.value_info[:]  # these shapes are older than torch's constant folding
    with _quiet("root"):
        quantize_dynamic(model, aside, weight_type=QuantType.QInt8, per_channel=True)
    aside.replace(file)


class Session(torch.nn.Module):  # type: ignore[misc]
    """An ONNX file that is called in the same way as the original model."""

    def __init__(self, file: Path):
        import onnxruntime

        super().__init__()
        self.register_parameter("dtype", torch.nn.Parameter(torch.empty(0)))  # tasks read the dtype of a parameter
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._outputs = [one.name for one in self._session.get_outputs()]

    def forward(self, **inputs: torch.Tensor) -> SimpleNamespace:
        tensors = _with_mask(inputs)
        outputs = self._session.run(self._outputs, {name: tensors[name].numpy() for name in self._inputs})
        return SimpleNamespace(**{n: torch.from_numpy(v) for n, v in zip(self._outputs, outputs, strict=True)})


class _PositionalModel(torch.nn.Module):  # type: ignore[misc]
    """A model with positional inputs. The output is a tuple of tensors."""

    def __init__(self, model: torch.nn.Module, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_tensors_by_name(self.model(**dict(zip(self.names, values, strict=True)))).values())


def _tensors_by_name(output: torch.Tensor | Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Return the tensors of a model's output by name. A bare tensor is named `logits`."""
    if isinstance(output, torch.Tensor):
        return {"logits": output}
    return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}


def _with_mask(inputs: Inputs) -> Inputs:
    """Return the inputs with an attention mask, which batches without padding do not have."""
    if "input_ids" in inputs and "attention_mask" not in inputs:
        return {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
    return inputs


def _dynamic_axes(tensor: torch.Tensor) -> dict[int, object]:
    """Return the axes of variable size: samples and, in a matrix of integers, tokens."""
    axes = (0, 1) if tensor.ndim == 2 and not tensor.is_floating_point() else (0,)
    return dict.fromkeys(axes, torch.export.Dim.DYNAMIC)


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Suppress warnings, and messages of the named loggers below level ERROR, inside the block.

    The name `root` stands for the root logger.
    """
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
