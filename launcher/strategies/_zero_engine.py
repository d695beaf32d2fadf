"""The engine of DeepSpeed's ZeRO, with the launcher's accumulation, clipping, loss scale and checkpoints.

The flat partitions of ZeRO are converted to tensors with canonical names and shapes, one parameter at a time, and each
rank keeps only its rows (DTensor). So no host ever has the whole state, and any other layout can load it.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from launcher.config.errors import Problem, UserError
from launcher.strategies import Engine, EngineParts, Exchange, NonfiniteGradients, _deepspeed_process
from launcher.strategies._deepspeed_settings import Settings, offloads
from launcher.strategies._torch_engine import TorchEngine


def wrap(stage: int, settings: Settings, unwrapped: EngineParts) -> Engine:
    """Wrap a model with ZeRO of this stage. `settings`: DeepSpeed's configuration."""
    deepspeed = _deepspeed_process.load(unwrapped.process.device.type)
    _deepspeed_process.set_local_rank(unwrapped.process.device)
    unwrapped.process.ensure_initialized()
    engine, *_ = deepspeed.initialize(
        model=unwrapped.model,
        optimizer=unwrapped.optimizer.for_model(unwrapped.model),
        config=settings,
        dist_init_required=False,
    )
    if stage == 0:
        engine.torch_autocast_z0_gradscaler = None  # the loss scale is the launcher's
        return Zero0(engine, unwrapped.model, engine.optimizer)
    return (Zero3 if stage == 3 else Zero12)(engine, unwrapped, offloads(settings))


class _Boundary(Engine):
    """Accumulation of micro-batches in DeepSpeed's engine."""

    module: torch.nn.Module
    exchanges: Exchange = "always"
    casts_once = False  # DeepSpeed changes the tensors of parameters

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[torch.nn.Module]:
        self.module.set_gradient_accumulation_boundary(is_boundary=last)
        yield self.module

    def backward(self, loss: torch.Tensor) -> None:
        self.module.backward(loss)


class Zero0(_Boundary, TorchEngine):
    """ZeRO 0: nothing is sharded. Each rank holds the averaged gradients after the last backward."""


class _Partitioned(_Boundary):
    """ZeRO 1 to 3: the tensors of the optimiser are flat partitions of all parameters of a group.

    `offloaded`: the optimiser state is in host memory. Then the state of a checkpoint is gathered and kept there too,
    since the device may have no room for it.
    """

    def __init__(self, engine: torch.nn.Module, unwrapped: EngineParts, offloaded: bool):
        self.module, self.unwrapped, self._zero = engine, unwrapped.model, engine.optimizer
        self._zero.torch_autocast_gradscaler = None  # the loss scale is the launcher's
        self._zero.custom_loss_scaler, self._zero.external_loss_scale = True, 1.0
        self._offloaded = offloaded
        device = "cpu" if offloaded else unwrapped.process.device.type
        self._mesh = init_device_mesh(device, (unwrapped.process.world,))
        self._trained = {name: p for name, p in unwrapped.model.named_parameters() if p.requires_grad}
        names = unwrapped.optimizer.state_names()
        self._last_norm = 0.0
        self._counts, self._moments = "step" in names, [name for name in names if name != "step"]
        self._prime()

    @abstractmethod
    def _weight(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """Return a whole parameter."""

    @abstractmethod
    def _set_weight(self, parameter: torch.nn.Parameter, whole: torch.Tensor) -> None:
        """Set a parameter on every rank from a whole tensor."""

    @abstractmethod
    def _moment(self, parameter: torch.nn.Parameter, moment: str) -> torch.Tensor:
        """Return a whole moment of the optimiser for a parameter."""

    @abstractmethod
    def _set_moment(self, parameter: torch.nn.Parameter, moment: str, whole: torch.Tensor) -> None:
        """Set a moment on every rank from a whole tensor."""

    @abstractmethod
    def _flat(self) -> list[torch.Tensor]:
        """Return the flat partitions that the optimiser has as parameters."""

    @abstractmethod
    def _link(self) -> None:
        """Let DeepSpeed find the moments of each parameter in those of the parameter's partition."""

    @abstractmethod
    def _norm(self) -> float:
        """Return the norm of the whole gradient, which DeepSpeed computes on the host."""

    @abstractmethod
    def _infinite_norm(self) -> tuple[str, Callable[..., object]]:
        """Return the name of the method by which a step of DeepSpeed computes the norm, and one that returns an
        infinite norm."""

    def norm(self) -> torch.Tensor:
        self._last_norm = self._norm()
        return torch.tensor(self._last_norm, dtype=torch.float64)

    def nonfinite(self) -> NonfiniteGradients:
        """Return the flags of the whole gradients. They are computed only if the norm is not finite, because each
        gradient is gathered for it."""
        from deepspeed.utils import safe_get_full_grad

        if math.isfinite(self._last_norm):
            return NonfiniteGradients([], torch.zeros(0, dtype=torch.bool))
        flags = [not bool(torch.isfinite(safe_get_full_grad(p)).all()) for p in self._trained.values()]
        return NonfiniteGradients(list(self._trained), torch.tensor(flags))

    def update(self, lr: float, factor: torch.Tensor) -> None:
        if not math.isfinite(known := float(factor)):
            self.clear()
            return
        for group in self._zero.param_groups:
            group["lr"] = lr * group["scale"]
        self._zero.external_loss_scale = 1.0 / known  # DeepSpeed divides the gradients by this scale
        self.module.step()
        self._zero.external_loss_scale = 1.0

    def clear(self) -> None:
        """Discard the gradients by a step of DeepSpeed. It updates nothing, because the norm that it reads is
        infinite."""
        name, infinite = self._infinite_norm()
        setattr(self._zero, name, infinite)
        try:
            self.module.step()
        finally:
            delattr(self._zero, name)

    def state_dict(self) -> dict[str, torch.Tensor]:
        state = dict[str, torch.Tensor]()
        for name, parameter in self.unwrapped.named_parameters():
            state[f"model.{name}"] = self._rows(self._weight(parameter), parameter)
        kept = self.unwrapped.state_dict().keys()
        state |= {f"model.{name}": b for name, b in self.unwrapped.named_buffers() if name in kept}
        for name, parameter in self._trained.items():
            for moment in self._moments:
                state[f"optimizer.{name}.{moment}"] = self._rows(self._moment(parameter, moment), parameter)
            if self._counts:
                state[f"optimizer.{name}.step"] = self._count().clone()
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        steps = [float(_whole(state[f"optimizer.{name}.step"])) for name in self._trained] if self._counts else []
        if len(set(steps)) > 1:
            what = f"DeepSpeed counts one number of steps for all parameters, these have {min(steps):.0f} to"
            raise UserError(Problem("strategy", f"{what} {max(steps):.0f} (take ddp or fsdp to go on from here)"))
        for name, parameter in self.unwrapped.named_parameters():
            self._set_weight(parameter, _whole(state[f"model.{name}"]))
        for name, parameter in self._trained.items():
            for moment in self._moments:
                self._set_moment(parameter, moment, _whole(state[f"optimizer.{name}.{moment}"]))
        for entry in self._zero.optimizer.state.values() if self._counts else ():
            entry["step"].fill_(steps[0])

    def _rows(self, whole: torch.Tensor, parameter: torch.nn.Parameter) -> DTensor:
        """Return this rank's rows of a tensor that is whole on every rank, on the device of the mesh."""
        pieces = whole.chunk(self._mesh.size()) if whole.ndim else (whole,)
        mine = self._mesh.get_local_rank()
        held = pieces[mine].clone() if mine < len(pieces) else whole[:0].clone()
        options: dict[str, object] = {"run_check": False, "shape": whole.shape, "stride": whole.stride()}
        return DTensor.from_local(held, self._mesh, [Shard(0)], **options)

    def _prime(self) -> None:
        """Create the moments before the first step, for `state_dict`. DeepSpeed 0.19 itself links only the moments of
        the first group, at the end of that step."""
        for flat in self._flat():
            made = {moment: torch.zeros_like(flat.data) for moment in self._moments}
            step = {"step": torch.zeros((), dtype=torch.float32, device=flat.device)} if self._counts else {}
            self._zero.optimizer.state[flat] = made | step
        self._link()

    def _count(self) -> torch.Tensor:
        return next(iter(self._zero.optimizer.state.values()))["step"]


class Zero12(_Partitioned):
    """ZeRO 1 and 2: each rank has all parameters and updates its partition of them."""

    def _norm(self) -> float:
        return float(self._zero.scaled_global_norm())

    def _infinite_norm(self) -> tuple[str, Callable[..., object]]:
        return "scaled_global_norm", lambda: torch.tensor(math.inf)

    def _weight(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        return parameter.detach()

    def _set_weight(self, parameter: torch.nn.Parameter, whole: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        parameter.data.copy_(whole)
        safe_set_full_fp32_param(parameter, whole)

    def _moment(self, parameter: torch.nn.Parameter, moment: str) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        if not self._offloaded:
            return safe_get_full_optimizer_state(parameter, moment)
        whole, mapping = torch.zeros(parameter.numel()), parameter._hp_mapping
        if mapping is not None:  # a part of the parameter is in this rank's partition
            held = mapping.lp_fragment_address
            whole[held.start :][: held.numel].copy_(mapping.get_hp_fragment(moment))
        dist.all_reduce(whole)
        return whole.view_as(parameter)

    def _set_moment(self, parameter: torch.nn.Parameter, moment: str, whole: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        safe_set_full_optimizer_state(parameter, whole, moment)

    def _flat(self) -> list[torch.Tensor]:
        """Return the partitions that this rank updates."""
        return [flat for group in self._zero.optimizer.param_groups for flat in group["params"]]

    def _link(self) -> None:
        """Link each parameter to its part of the flat moments, as DeepSpeed does at its first step."""
        self._zero._lazy_init_hp_params_optimizer_state()


class Zero3(_Partitioned):
    """ZeRO 3: parameters are partitioned too, padded to the same length on each rank."""

    def _norm(self) -> float:
        from deepspeed.runtime.utils import combine_grad_norm_groups

        norm = float(combine_grad_norm_groups(self._zero._get_norm_groups()))
        overflows = norm**2 > torch.finfo(torch.float32).max  # in fp32, in which the other engines sum squares
        return math.inf if overflows or math.isnan(norm) else norm

    def _infinite_norm(self) -> tuple[str, Callable[..., object]]:
        return "_get_norm_groups", lambda: [torch.tensor(math.inf)]

    def _weight(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        return self._gathered(parameter, parameter.ds_tensor.detach())

    def _gathered(self, parameter: torch.nn.Parameter, partition: torch.Tensor) -> torch.Tensor:
        """Return a whole tensor of the shape of a parameter from the partitions of all ranks."""
        held = partition.flatten()
        every = held.new_empty(held.numel() * self._mesh.size())
        dist.all_gather_into_tensor(every, held)
        return every[: parameter.ds_numel].view(parameter.ds_shape)

    def _set_weight(self, parameter: torch.nn.Parameter, whole: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_local_fp32_param

        mine = self._mine(parameter, whole)
        parameter.ds_tensor.data.copy_(mine.view_as(parameter.ds_tensor))
        safe_set_local_fp32_param(parameter, mine)

    def _moment(self, parameter: torch.nn.Parameter, moment: str) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state, safe_get_local_optimizer_state

        if not self._offloaded:
            return safe_get_full_optimizer_state(parameter, moment)
        return self._gathered(parameter, safe_get_local_optimizer_state(parameter, moment).cpu())

    def _set_moment(self, parameter: torch.nn.Parameter, moment: str, whole: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        safe_set_local_optimizer_state(parameter, self._mine(parameter, whole), moment)

    def _mine(self, parameter: torch.nn.Parameter, whole: torch.Tensor) -> torch.Tensor:
        """Return this rank's partition of a whole tensor, padded."""
        size, flat = parameter.ds_tensor.numel(), whole.flatten()
        padded = torch.nn.functional.pad(flat, (0, size * self._mesh.size() - flat.numel()))
        return padded[size * self._mesh.get_local_rank() :][:size]

    def _flat(self) -> list[torch.Tensor]:
        """Return the partitions that this rank updates. DeepSpeed passes each of them to the torch optimiser only
        during a step."""
        return list(self._zero.fp32_partitioned_groups_flat)

    def _link(self) -> None:
        """Do nothing, because parameters find their moments by offset."""


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
