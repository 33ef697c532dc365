"""Models named on a command line, built on the meta device."""

import contextlib
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from npas.errors import NpasError


class ModelError(NpasError):
    """A model that the command line names and that cannot be loaded."""


def load_model(source: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a model on the meta device: no weights are allocated.

    Args:
        source: ``package.module:callable``, ``path/to/file.py:callable``, ``timm:NAME``,
            ``torchvision:NAME`` or ``hf:CONFIG.json``.
        arguments: keyword arguments for the callable.

    Raises:
        ModelError: if it cannot be found or built.
    """
    where, separator, what = source.rpartition(":")
    if not separator or not where or not what:
        raise ModelError(
            f"model {source!r}: write package.module:callable, file.py:callable, timm:NAME, "
            "torchvision:NAME or hf:CONFIG.json"
        )
    try:
        # What the model's code prints is for people; standard output is for the plan.
        with torch.device("meta"), contextlib.redirect_stdout(sys.stderr):
            match where:
                case "timm":
                    model = importlib.import_module("timm").create_model(what, **arguments)
                case "torchvision":
                    models = importlib.import_module("torchvision.models")
                    model = models.get_model(what, **arguments)
                case "hf":
                    model = _from_config(what, arguments)
                case _:
                    model = _callable(where, what)(**arguments)
    except ModelError:
        raise
    except ImportError as error:
        hint = f"; pip install 'npas[{where}]'" if where in ("timm", "torchvision", "hf") else ""
        raise ModelError(f"model {source!r}: {error}{hint}") from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"model {source!r}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {source!r} made a {type(model).__name__}, not an nn.Module")
    return model


def load_search(source: str, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """Call ``path/to/file.py:make`` or ``package.module:make`` for what a search needs.

    Args:
        source: names a callable that returns model, batches, loss_fn and, if it wants, a function
            that makes the optimizer.
        arguments: keyword arguments for it.

    Raises:
        ModelError: if it cannot be found, fails, or returns something else.
    """
    where, separator, what = source.rpartition(":")
    if not separator or not where or not what:
        raise ModelError(f"{source!r}: write SCRIPT.py:make or package.module:make")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            made = _callable(where, what)(**arguments)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{source!r}: {type(error).__name__}: {error}") from error
    if not isinstance(made, tuple) or len(made) not in (3, 4) or not isinstance(made[0], nn.Module):
        found = type(made).__name__
        if isinstance(made, tuple):
            found = f"({', '.join(type(part).__name__ for part in made)})"
        raise ModelError(
            f"{source!r} must return model, batches, loss_fn and perhaps an optimizer function; it "
            f"returned {found}"
        )
    return made


def _callable(where: str, what: str) -> Any:
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise ModelError(f"model file {where} is not there")
        # As `python file.py` does: modules beside it can be imported.
        folder = str(path.resolve().parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    else:
        # As `python -m` does: modules of the working directory can be named.
        if "" not in sys.path:
            sys.path.insert(0, "")
        module = importlib.import_module(where)
    found = getattr(module, what, None)
    if not callable(found):
        names = ", ".join(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
        raise ModelError(f"{where} has no callable {what!r}; it has {names or 'none'}")
    return found


def _from_config(path: str, arguments: Mapping[str, Any]) -> Any:
    transformers = importlib.import_module("transformers")
    data = json.loads(Path(path).read_text(encoding="utf-8")) | dict(arguments)
    config = transformers.AutoConfig.for_model(**data)
    names = data.get("architectures") or []
    cls = getattr(transformers, names[0], None) if names else None
    return cls(config) if cls is not None else transformers.AutoModel.from_config(config)


def parse_input(text: str) -> tuple[str | None, torch.Tensor]:
    """Read ``[NAME=]DTYPE:SIZExSIZE`` as a meta tensor.

    Raises:
        NpasError: if it cannot be read.
    """
    found = re.fullmatch(r"(?:(\w+)=)?(\w+):(\d+(?:x\d+)*)", text)
    dtype = getattr(torch, found.group(2), None) if found else None
    if found is None or not isinstance(dtype, torch.dtype):
        raise NpasError(
            f"--input {text!r}: write DTYPE:SIZExSIZE, such as float32:1x3x32x32, or "
            "NAME=DTYPE:SIZE for a keyword, such as ids=int64:8x128"
        )
    shape = [int(size) for size in found.group(3).split("x")]
    try:
        return found.group(1), torch.empty(shape, dtype=dtype, device="meta")
    except (RuntimeError, TypeError, OverflowError) as error:
        raise NpasError(f"--input {text!r}: no tensor has this size") from error
