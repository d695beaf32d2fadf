"""Modules of libraries that are imported on the way to the first step, but used by none of it: their import waits.

torch.optim, DistributedDataParallel and transformers import torch._dynamo (0.5 s), only to find that nothing is being
compiled, and DTensor imports sympy (0.3 s), only to find that no shape is symbolic. transformers imports scipy.optimize
(0.2 s) for the losses of object detection, and reads all of its model files twice (0.2 s each) to list their classes.
`install` puts modules in their place that give the same answers. Whoever asks such a module for anything else gets the
real one.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_STRUCTURES = "transformers.utils.import_utils"
"""Module of transformers that lists the classes of a folder."""
_DYNAMO = "torch._dynamo"
_SHAPES = "torch.fx.experimental.symbolic_shapes"
_ALLOWED: list[object] = []
"""Functions that libraries have allowed in graphs of torch._dynamo before it was imported."""


class _Deferred(ModuleType):
    """Stands in for a module until something asks for more than `known`, its values that need no import."""

    def __init__(self, name: str, known: Mapping[str, object]):
        super().__init__(name)
        self.__path__: list[str] = []  # so that its submodules are looked up, by _Finder
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of every module by inspect and warnings
            raise AttributeError(name)
        return getattr(load(self.__name__), name)


class _Loaded(Loader):
    """A loader for a module that exists already."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing."""


class _ListsOnce(Loader):
    """Loads the module of transformers that lists the classes of a folder, so that it does it once for each folder."""

    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        namespace = vars(module)
        namespace["define_import_structure"] = _once_a_folder(namespace["define_import_structure"])


class _Finder(MetaPathFinder):
    """Loads the real module when a submodule of a deferred one is imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == _STRUCTURES:
            found = PathFinder.find_spec(name, path)
            if found is not None and found.loader is not None:
                found.loader = _ListsOnce(found.loader)
            return found
        deferred = next((one for one in _KNOWN if name.startswith(f"{one}.")), None)
        if deferred is None or not isinstance(sys.modules.get(deferred), _Deferred):
            return None
        real = load(deferred)
        if name in sys.modules:
            return ModuleSpec(name, _Loaded())
        return PathFinder.find_spec(name, real.__path__)


def install() -> None:
    """Defer the imports of this process from now on, and of the processes that are forked from it."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name, known in _KNOWN.items():
        if name not in sys.modules:
            sys.modules[name] = _Deferred(name, known)


def load(name: str) -> ModuleType:
    """Import a module that may be deferred, or a submodule of one, and return it. All that is deferred of its library
    is imported with it, and takes the place of what stood in for it."""
    family = f"{name.partition('.')[0]}."
    here = [one for one in _KNOWN if one.startswith(family) and isinstance(sys.modules.get(one), _Deferred)]
    for one in here:
        del sys.modules[one]
    for one in here:
        _replace(_KNOWN[one], importlib.import_module(one))
    while here and family == "torch." and _ALLOWED:
        importlib.import_module(_DYNAMO).allow_in_graph(_ALLOWED.pop(0))
    return importlib.import_module(name)


def _replace(known: Mapping[str, object], real: ModuleType) -> None:
    """Replace the values that modules have imported from a stand-in by those of the real module."""
    values = {id(value): getattr(real, name) for name, value in known.items()}
    for module in [one for one in sys.modules.values() if type(one) is ModuleType and one.__name__ != __name__]:
        namespace = vars(module)
        for name in [name for name, value in namespace.items() if id(value) in values]:
            namespace[name] = values[id(namespace[name])]


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **options: object) -> Any:
    """Return the function: nothing is compiled that it would have to be left out of."""
    return _disable if function is None else function


def _constant(function: Any) -> Any:
    """Mark a function as torch._dynamo does. Only a compiler reads the mark."""
    function._dynamo_marked_constant = True
    return function


def _allow(function: Any) -> Any:
    """Allow a function in a graph, as soon as there is something that makes graphs."""
    _ALLOWED.append(function)
    return function


def _no_boundary() -> None:
    """Do nothing: there is no graph to break, and no rule to forget."""


def _transform() -> Any:
    """Return the context in which torch.vmap indexes by the items of tensors."""
    return load(f"{_DYNAMO}._trace_wrapped_higher_order_op").TransformGetItemToIndex()


def _plain(name: str) -> Callable[[Any], bool]:
    """Return a test of a condition that may be symbolic. A plain one is its own answer."""

    def test(condition: Any) -> bool:
        return condition if isinstance(condition, bool) else bool(vars(load(_SHAPES))[name](condition))

    return test


class _Undecided(RuntimeError):
    """Stands in for the error of a condition on symbolic shapes, which only the real module raises."""


def _assign(*arguments: Any, **options: Any) -> Any:
    """Call scipy's solver of the assignment problem."""
    return load("scipy.optimize").linear_sum_assignment(*arguments, **options)


_KNOWN: Mapping[str, Mapping[str, object]] = {
    _DYNAMO: {
        "disable": _disable,
        "assume_constant_result": _constant,
        "allow_in_graph": _allow,
        "graph_break": _no_boundary,
        "utils": _Deferred("torch._dynamo.utils", {"get_optimize_ddp_mode": lambda: "ddp_optimizer"}),
        "trace_rules": _Deferred("torch._dynamo.trace_rules", {"clear_lru_cache": _no_boundary}),
    },
    f"{_DYNAMO}._trace_wrapped_higher_order_op": {"TransformGetItemToIndex": _transform},
    _SHAPES: {
        "guard_or_false": _plain("guard_or_false"),
        "statically_known_true": _plain("statically_known_true"),
        "GuardOnDataDependentSymNode": _Undecided,
    },
    "scipy.optimize": {"linear_sum_assignment": _assign},
}
"""The deferred modules, with what is asked of them where nothing is compiled and no object is detected."""

Structure = dict[frozenset[str], dict[str, set[str]]]


def _once_a_folder(define: Callable[..., Structure]) -> Callable[..., Structure]:
    """Return transformers' define_import_structure with a memory. Each call returns a structure of its own."""
    read = functools.cache(define)

    def of_folder(module_path: str | Path, prefix: str | None = None) -> Structure:
        path = Path(module_path)
        names = read(str(path.parent if path.is_file() else path))
        begin = "" if prefix is None else f"{prefix}."
        return {
            backends: {f"{begin}{name}": set(classes) for name, classes in modules.items()}
            for backends, modules in names.items()
        }

    return of_folder
