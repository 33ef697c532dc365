import io
from typing import Any

import pytest
import torch
from torch import nn

import npas
from tests.interop.nets import EVERY, WAYS, bank_names, convert, generated_names, ids, net

pytestmark = pytest.mark.pure


def exported(module: Any, **options: Any) -> torch.export.ExportedProgram:
    return torch.export.export(module, (ids(),), **options)


@EVERY
def test_the_program_computes_the_same(way: str, kind: str) -> None:
    module = net(way, kind).eval()
    program: Any = exported(module).module()
    torch.testing.assert_close(program(ids()), module(ids()))


@pytest.mark.parametrize("way", WAYS)
def test_captured_by_dynamo(way: str) -> None:
    module = net(way).eval()
    program: Any = exported(module, strict=True).module()
    torch.testing.assert_close(program(ids()), module(ids()))


@pytest.mark.parametrize("way", WAYS)
def test_its_parameters_are_the_banks_and_not_the_weights(way: str) -> None:
    module = net(way)
    program = exported(module)
    parameters = set(program.graph_signature.parameters)
    assert parameters == {name for name, _ in module.named_parameters()}
    assert bank_names(module) and bank_names(module) <= parameters
    assert not generated_names(module) & (parameters | program.state_dict.keys())
    # Nothing that is as large as a weight is left among the constants.
    assert sum(c.numel() for c in program.constants.values() if torch.is_tensor(c)) < 64


@pytest.mark.parametrize("way", WAYS)
def test_the_materialised_module_exports_without_banks(way: str) -> None:
    module = net(way).eval()
    dense = npas.materialize(module)
    program = exported(dense)
    assert set(program.graph_signature.parameters) == {n for n, _ in dense.named_parameters()}
    run: Any = program.module()
    torch.testing.assert_close(run(ids()), module(ids()))


@pytest.mark.parametrize("way", WAYS)
def test_a_free_batch_size(way: str) -> None:
    module = net(way).eval()
    free = ({0: torch.export.Dim("batch")},)
    program: Any = exported(module, dynamic_shapes=free).module()
    torch.testing.assert_close(program(ids(7)), module(ids(7)))


@pytest.mark.parametrize("way", WAYS)
def test_the_program_trains_the_banks(way: str) -> None:
    module = net(way)
    program: Any = exported(module).module()
    program(ids()).square().sum().backward()
    module(ids()).square().sum().backward()
    expected = {name: p.grad for name, p in module.named_parameters()}
    for name, parameter in program.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize("way", WAYS)
def test_saved_and_loaded(way: str) -> None:
    module, file = net(way).eval(), io.BytesIO()
    torch.export.save(exported(module), file)
    file.seek(0)
    program: Any = torch.export.load(file).module()
    torch.testing.assert_close(program(ids()), module(ids()))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch, from its own code
@pytest.mark.parametrize("way", ["fx", "in place"])
def test_with_the_reference_backend_it_holds_operators_of_pytorch_alone(way: str) -> None:
    module = net(way, backend="reference").eval()
    program = exported(module).run_decompositions()
    called = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert not [name for name in called if "npas" in name]
    run: Any = program.module()
    torch.testing.assert_close(run(ids()), module(ids()))


class Scaled(nn.Module):
    """Has an argument with a constant default, which a graph of fx fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)

    def forward(
        self, x: torch.Tensor, shift: torch.Tensor | None = None, scale: float = 1.0
    ) -> dict[str, torch.Tensor]:
        x = self.second(torch.tanh(self.first(x))) * scale
        return {"out": x if shift is None else x + shift}


@pytest.mark.parametrize("way", WAYS)
def test_arguments_that_the_graph_was_not_made_for_count(way: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8)
    module = convert(Scaled(), way, (x,))
    for kwargs in ({}, {"scale": 3.0}, {"shift": torch.ones(8)}, {"scale": 2.0, "shift": x}):
        program: Any = torch.export.export(module, (x,), kwargs).module()
        torch.testing.assert_close(program(x, **kwargs), module(x, **kwargs))
