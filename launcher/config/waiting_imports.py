"""Libraries that others import because they are installed, though a preparation uses nothing of them: they wait.

pyarrow imports pandas (0.5 s) to find that a list is none of its series. The tokenizers of transformers import torch
(1 s) for functions of rotary positions, which only a model calls. When something does import pandas or torch, both
libraries get it as if it had been there.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_POSITIONS = "transformers.modeling_rope_utils"


class _Torch(ModuleType):
    """Stands in for torch in transformers' module of positions until that uses it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of every module by inspect and warnings
            raise AttributeError(name)
        _leave(self)
        import torch

        return getattr(torch, name)


class _Wrapped(Loader):
    """Loads a module by its own loader, which the module keeps."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)


class _PandasLoader(_Wrapped):
    def exec_module(self, module: ModuleType) -> None:
        import pyarrow as pa

        super().exec_module(module)
        pa.array(()).to_pandas()  # pyarrow looks for pandas again only where it cannot do without


class _PositionsLoader(_Wrapped):
    def exec_module(self, module: ModuleType) -> None:
        from transformers.utils import is_torch_available

        if "torch" in sys.modules or not is_torch_available():
            super().exec_module(module)
            return
        waiting = sys.modules["torch"] = _Torch("torch")
        try:
            super().exec_module(module)
        finally:
            _leave(waiting)


class _TorchLoader(_Wrapped):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        positions = sys.modules.get(_POSITIONS)
        if positions is not None and isinstance(vars(positions).get("torch"), _Torch):
            vars(positions)["torch"] = module


class _Finder(MetaPathFinder):
    """Finds the libraries that wait. `refuses`: whether pandas cannot be imported."""

    refuses = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        loader = _LOADERS.get(name)
        if loader is None:
            return None
        if self.refuses and name == "pandas":
            raise ImportError("pandas waits until something uses it")
        found = PathFinder.find_spec(name, path)
        if found is not None and found.loader is not None:
            found.loader = loader(found.loader)
        return found


_LOADERS: dict[str, type[_Wrapped]] = {"pandas": _PandasLoader, _POSITIONS: _PositionsLoader, "torch": _TorchLoader}


def install() -> None:
    """Let pandas and torch wait in this process, unless they have been imported."""
    import pyarrow as pa

    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    finder.refuses = "pandas" not in sys.modules
    try:
        pa.array(())
    finally:
        finder.refuses = False


def _leave(waiting: _Torch) -> None:
    """Make room for the real torch."""
    if sys.modules.get("torch") is waiting:
        del sys.modules["torch"]
