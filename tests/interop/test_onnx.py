from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import npas
from tests.interop.nets import WAYS, bank_names, convert, generated_names, library

onnx = library("onnx")
library("onnxscript")
onnxruntime = library("onnxruntime")

pytestmark = [
    pytest.mark.pure,
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

WIDTH = 128
X = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
KINDS: dict[str, dict[str, Any]] = {
    "templates": {"budget": 0.3, "groups": "single"},
    "embedded templates": {"budget": 0.3, "groups": "single", "downsample": "emb"},
    "masked tiles": {"budget": 0.12, "groups": "single"},
    "interpolation": {"budget": 0.12, "groups": "single", "upsample": "inter"},
}
CASES = [(way, "templates") for way in WAYS]
CASES += [("in place", kind) for kind in KINDS if kind != "templates"]


class Stack(nn.Module):
    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def model() -> nn.Module:
    torch.manual_seed(0)
    return Stack([nn.Linear(WIDTH, WIDTH) for _ in range(4)])


def compiled(way: str, kind: str) -> Any:
    return convert(model(), way, (X,), **KINDS[kind], backend="reference").eval()


def written(module: nn.Module, path: Path) -> Any:
    """Export a module to one file, and return what onnx reads from it."""
    program: Any = torch.onnx.export(module, (X,), dynamo=True, optimize=False, verbose=False)
    for node in program.model.graph:
        node.metadata_props.clear()
        node.doc_string = None
    program.save(path, external_data=False)
    return onnx.load(path)


def run(path: Path) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    return torch.from_numpy(session.run(None, {name: X.numpy()})[0])


@pytest.mark.parametrize(("way", "kind"), CASES)
def test_banks_are_written_once_and_weights_never(way: str, kind: str, tmp_path: Path) -> None:
    module, path = compiled(way, kind), tmp_path / "small.onnx"
    graph = written(module, path).graph
    torch.testing.assert_close(run(path), module(X), rtol=1e-4, atol=1e-5)

    names = [initializer.name for initializer in graph.initializer]
    assert bank_names(module) <= set(names) and len(set(names)) == len(names)
    assert not generated_names(module) & set(names)
    sizes = {i.name: onnx.numpy_helper.to_array(i).size for i in graph.initializer}
    sizes |= {
        node.output[0]: onnx.numpy_helper.to_array(attribute.t).size
        for node in graph.node
        for attribute in node.attribute
        if attribute.HasField("t")
    }
    assert [name for name, size in sizes.items() if size > WIDTH] == ["npas.banks.b0.theta"]

    parameters = 4 * sum(p.numel() for p in module.parameters())
    dense = 4 * sum(p.numel() for p in model().parameters())
    size = path.stat().st_size
    assert parameters < size < parameters + 25_000 < 0.5 * dense


@pytest.mark.parametrize("way", ["in place"])
def test_the_materialised_module_is_written_whole(way: str, tmp_path: Path) -> None:
    module = compiled(way, "templates")
    dense = npas.materialize(module)
    graph = written(dense, tmp_path / "dense.onnx").graph
    assert {"layers.0.weight", "layers.3.weight"} <= {i.name for i in graph.initializer}
    torch.testing.assert_close(run(tmp_path / "dense.onnx"), module(X), rtol=1e-4, atol=1e-5)
