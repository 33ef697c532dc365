import operator
from typing import Any

import pytest
import torch
from torch import fx, nn

import npas
from npas.errors import NpasError
from npas.module import Shapeshifter
from npas.naming import check_choice
from npas.passes.rewrite import rewrite
from npas.passes.schedule import SCHEDULES, schedule, schedule_all
from npas.passes.trace import trace

pytestmark = pytest.mark.pure


class Net(nn.Module):
    """Convolutions, a lookup, a recurrent layer, dropout: layers that share banks across kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.conv = nn.Conv1d(12, 12, 3, padding=1)
        self.norm = nn.BatchNorm1d(12)
        self.lstm = nn.LSTM(12, 12, batch_first=True)
        self.fc1, self.fc2, self.fc3 = (nn.Linear(12, 12) for _ in range(3))
        self.drop = nn.Dropout(0.3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(self.embedding(ids).transpose(1, 2))).transpose(1, 2)
        x = self.drop(self.lstm(x)[0])
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


IDS = torch.randint(0, 50, (4, 6), generator=torch.Generator().manual_seed(0))


def compiled(how: str, budget: float = 0.4, **options: Any) -> Shapeshifter:
    torch.manual_seed(0)
    model = Net()
    return npas.compile(model, budget, schedule=how, **options)


def nodes_of(graph: fx.Graph) -> list[str]:
    return [node.name for node in graph.nodes]


@pytest.mark.parametrize("groups", ["single", "by_shape", "auto"])
@pytest.mark.parametrize("downsample", ["wavg", "emb", "avg", "rr"])
def test_bank_and_layer_give_the_same_bits(groups: str, downsample: str) -> None:
    options: dict[str, Any] = {"groups": groups, "downsample": downsample}
    layer, bank = compiled("layer", **options), compiled("bank", **options)
    for name, value in layer.state_dict().items():
        assert torch.equal(bank.state_dict()[name], value)
    for mode in (True, False):
        for grad in (True, False):
            outputs = []
            for ssn in (layer.train(mode), bank.train(mode)):
                torch.manual_seed(1)
                with torch.set_grad_enabled(grad):
                    outputs.append(ssn(IDS))
            assert torch.equal(*outputs), (mode, grad)


@pytest.mark.parametrize("recompute", [True, False])
def test_bank_and_layer_give_the_same_gradients(recompute: bool) -> None:
    found: list[dict[str, torch.Tensor]] = []
    for how in ("layer", "bank"):
        ssn = compiled(how, recompute=recompute, groups="single")
        torch.manual_seed(1)
        ssn(IDS).square().sum().backward()
        assert all(p.grad is not None for p in ssn.parameters())
        found.append({n: p.grad for n, p in ssn.named_parameters() if p.grad is not None})
    for name, value in found[0].items():
        # One sum over all layers of a bank, or one a layer and then added up.
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5)


def deferred(ssn: Shapeshifter) -> dict[str, object]:
    """Return the layers whose weights wait for their input, and how."""
    calls = [n for n in ssn.graph.nodes if n.op == "call_module" and "npas" in str(n.target)]
    return {str(n.args[0]): n.kwargs["defer"] for n in calls if "defer" in n.kwargs}


def test_auto_leaves_the_choice_to_layers_that_only_multiply() -> None:
    linear = ("fc1.weight", "fc2.weight", "fc3.weight")
    assert deferred(compiled("auto", groups="single")) == dict.fromkeys(linear, "pays")
    assert deferred(compiled("fused", groups="single")) == dict.fromkeys(linear, "always")
    assert deferred(compiled("layer")) == deferred(compiled("bank")) == {}
    auto, layer = compiled("auto"), compiled("layer")
    assert auto.code.replace(", defer = 'pays'", "") == layer.code
    torch.manual_seed(1)
    out = auto(IDS)
    torch.manual_seed(1)
    assert torch.equal(out, layer(IDS))


def test_a_layer_of_many_rows_has_no_choice() -> None:
    """With example inputs the rows of one sample are known: 6 here, 600 for the other one."""
    few, many = IDS, torch.zeros(1, 600, dtype=torch.int64)
    options: dict[str, Any] = {"groups": "single", "k": 1, "budget": 0.5}
    assert len(deferred(compiled("auto", example_inputs=(few,), **options))) == 3
    assert deferred(compiled("auto", example_inputs=(many,), **options)) == {}
    assert len(deferred(compiled("fused", example_inputs=(many,), **options))) == 3


def test_bank_generates_each_bank_once_before_its_first_use() -> None:
    ssn = compiled("bank", groups="single")
    calls = [n for n in ssn.graph.nodes if n.op == "call_module" and "npas" in str(n.target)]
    whole = [n for n in calls if "rows" not in n.kwargs]
    assert [(n.name, n.target, n.args) for n in whole] == [("b0", "npas.banks.b0", ())]
    # The lookup still makes its rows alone.
    assert [n.name for n in calls if "rows" in n.kwargs] == ["b0_embedding_weight_rows"]
    weights = list(whole[0].users)
    assert {n.target for n in weights} == {operator.getitem}
    assert [n.args[1] for n in weights] == [
        "conv.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "fc1.weight",
        "fc2.weight",
        "fc3.weight",
    ]
    assert [n.name for n in weights] == [f"b0_{str(n.args[1]).replace('.', '_')}" for n in weights]
    assert nodes_of(ssn.graph).index("b0") < nodes_of(ssn.graph).index("conv")


def test_the_pass_copies_the_graph() -> None:
    model = Net()
    plan = npas.plan(model, 0.4, groups="single")
    rewritten = rewrite(model, trace(model), plan)
    graph = rewritten.graphs[True]
    before = str(graph)
    scheduled = schedule(graph, plan, "bank")
    assert scheduled is not graph and str(graph) == before
    scheduled.lint()
    assert schedule(graph, plan, "layer") is graph
    both = schedule_all(rewritten.graphs, plan, "bank")
    assert both[True] is both[False]


def test_a_bank_named_like_a_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))
    outputs = []
    for how in ("layer", "bank"):
        torch.manual_seed(0)
        ssn = npas.compile(model, 0.8, groups={"0": "x", "1": "x_0_weight"}, schedule=how)
        ssn.graph.lint()
        outputs.append(ssn(torch.ones(2, 12)))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("how", SCHEDULES)
def test_known_schedules(how: str) -> None:
    check_choice("schedule", how, SCHEDULES)


def test_an_unknown_schedule() -> None:
    with pytest.raises(NpasError, match=r"schedule='bnak' is unknown \(nearest: 'bank'\)"):
        npas.compile(Net(), 0.4, schedule="bnak")
