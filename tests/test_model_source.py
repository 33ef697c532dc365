"""Models that a command line names, from packages and from a configuration."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torch import nn

from npas.model_source import ModelError, load_model, load_search

pytestmark = pytest.mark.pure

CONFIG: dict[str, Any] = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_embd": 8,
    "n_head": 2,
    "vocab_size": 20,
    "n_positions": 16,
}


@pytest.mark.parametrize(
    ("architectures", "name"),
    [
        (["GPT2LMHeadModel"], "GPT2LMHeadModel"),
        (["NoSuchModel"], "GPT2Model"),
        (None, "GPT2Model"),
    ],
)
def test_a_configuration_of_transformers(
    tmp_path: Path, architectures: list[str] | None, name: str
) -> None:
    pytest.importorskip("transformers", reason="needs npas[hf]")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | {"architectures": architectures}), encoding="utf-8")
    model: Any = load_model(f"hf:{path}", {"n_layer": 3})
    assert type(model).__name__ == name and model.config.n_layer == 3
    assert all(parameter.is_meta for parameter in model.parameters())


def test_packages_of_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called of timm and torchvision, neither of which has to be installed."""

    def made(name: str, **arguments: Any) -> nn.Module:
        return nn.Linear(arguments["width"], 1, bias=name == "biased")

    models = SimpleNamespace(get_model=made)
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=made))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)  # type: ignore[arg-type]
    for package in ("timm", "torchvision"):
        model = load_model(f"{package}:biased", {"width": 3})
        assert isinstance(model, nn.Linear) and model.in_features == 3
        assert model.bias is not None and model.weight.is_meta
        monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, f"{package}.models", None)  # type: ignore[arg-type]
        with pytest.raises(ModelError, match=rf"pip install 'npas\[{package}\]'"):
            load_model(f"{package}:biased", {"width": 3})


def test_what_a_search_is_made_of(tmp_path: Path) -> None:
    script = tmp_path / "what_to_search.py"
    script.write_text(
        "from torch import nn\n"
        "def make(n): return tuple([nn.Linear(2, 2), [], print, None][:n])\n"
        "def one(): return nn.Linear(2, 2)\n"
        "def other(): return [], nn.Linear(2, 2), print\n"
    )
    for n in (3, 4):
        assert len(load_search(f"{script}:make", {"n": n})) == n
    for call, arguments, found in (
        ("make", {"n": 2}, r"returned \(Linear, list\)"),
        ("one", {}, "returned Linear"),
        ("other", {}, r"returned \(list, Linear, builtin_function_or_method\)"),
        ("make", {}, "TypeError"),
        ("missing", {}, "no callable 'missing'"),
    ):
        with pytest.raises(ModelError, match=found):
            load_search(f"{script}:{call}", arguments)
    with pytest.raises(ModelError, match=r"write SCRIPT\.py:make"):
        load_search("make", {})
