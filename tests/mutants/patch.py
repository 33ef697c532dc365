"""Put changed code into a module that is imported, where others hold its functions already."""

import ast
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any


def install(module: ModuleType, tree: ast.Module) -> None:
    """Make an imported module what another tree of its source says, wherever it was imported.

    Functions get the new code in place, so that whoever holds one runs it. What else differs on the
    level of the module (numbers, names, tables) is replaced in every module that has it.
    """
    code = compile(ast.fix_missing_locations(tree), str(module.__file__), "exec")
    namespace = {"__name__": module.__name__, "__file__": module.__file__}
    exec(code, namespace)
    new = dict(_functions(namespace, module.__name__))
    for name, function in _functions(vars(module), module.__name__):
        function.__code__ = new[name].__code__
        function.__defaults__ = new[name].__defaults__
        function.__kwdefaults__ = new[name].__kwdefaults__
    for name, value in namespace.items():
        old = vars(module).get(name)
        if isinstance(value, int | float | str | tuple | dict | frozenset) and value != old:
            for other in list(sys.modules.values()):
                if getattr(other, "__dict__", {}).get(name, _MISSING) is old:
                    setattr(other, name, value)


_MISSING = object()


def _functions(namespace: Mapping[str, Any], module: str) -> Iterator[tuple[str, FunctionType]]:
    """Yield the functions that are defined on a module and in its classes, by name."""
    for name, value in list(namespace.items()):
        if getattr(value, "__module__", None) != module:
            continue
        if isinstance(value, type):
            for attribute, inner in vars(value).items():
                for i, function in enumerate(_unwrapped(inner)):
                    yield f"{name}.{attribute}.{i}", function
        else:
            for i, function in enumerate(_unwrapped(value)):
                yield f"{name}.{i}", function


def _unwrapped(value: Any) -> list[FunctionType]:
    """Return the function of a method, a property or a decorated function."""
    found = [getattr(value, name, None) for name in ("__func__", "fget", "func", "__wrapped__")]
    return [function for function in (value, *found) if isinstance(function, FunctionType)]
