"""The plan as data, and what it says to people."""

import copy
import dataclasses
import io
import pickle
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import npas
from npas import NpasError, Plan, PlanError

pytestmark = pytest.mark.pure


class Net(nn.Module):
    """A tied embedding, two repeated layers, one that is larger than any bank at a low budget."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16, padding_idx=3)
        self.blocks = nn.ModuleList([nn.Linear(16, 16) for _ in range(4)])
        self.wide = nn.Linear(16, 64)
        self.back = nn.Linear(64, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = torch.relu(block(x))
        return self.head(self.norm(self.back(torch.relu(self.wide(x)))))


N_DENSE = 800 + 4 * (256 + 16) + (1024 + 64) + (1024 + 16) + 32
IDS = torch.zeros(2, 5, dtype=torch.int64)


def make(budget: Any = "40%", **arguments: Any) -> Plan:
    return npas.plan(Net(), budget, **{"groups": "single", **arguments})


def shown(plan: Plan) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(plan.table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make(example_inputs=(IDS,))


def test_it_counts_everything(plan: Plan) -> None:
    assert plan.n_dense == N_DENSE == sum(p.numel() for p in Net().parameters())
    assert plan.budget_params == int(0.4 * N_DENSE)
    assert plan.n_fixed == 4 * 16 + 64 + 16 + 32
    assert plan.n_params == plan.n_fixed + sum(cost.total for cost in plan.costs.values())
    assert 0.99 * plan.budget_params < plan.n_params <= plan.budget_params


def test_it_is_frozen(plan: Plan) -> None:
    for value, name in ((plan, "seed"), (plan.layers[0], "base"), (plan.banks[0], "size")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 1)


def test_it_holds_no_tensor_and_no_node(plan: Plan) -> None:
    plain = (str, int, float, bool, type(None))

    def walk(value: Any) -> None:
        if isinstance(value, tuple):
            for item in value:
                walk(item)
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                walk(getattr(value, field.name))
        else:
            assert isinstance(value, plain), value

    walk(plan)


def test_it_can_be_copied_and_pickled(plan: Plan) -> None:
    assert copy.deepcopy(plan) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_meta_tensors_make_the_same_plan(plan: Plan) -> None:
    with torch.device("meta"):
        model = Net()
    found = npas.plan(model, "40%", groups="single", example_inputs=(IDS.to("meta"),))
    assert found.to_json() == plan.to_json()


def test_weight_values_do_not_matter() -> None:
    torch.manual_seed(0)
    one = make()
    torch.manual_seed(1)
    assert make().to_json() == one.to_json()


def test_the_mode_of_the_model_does_not_matter() -> None:
    one = npas.plan(Net().eval(), "40%", groups="single")
    assert one.to_json() == make().to_json()


def test_the_seed_decides_what_is_random() -> None:
    plans = {make(groups="random", n_banks=3, seed=seed).to_json() for seed in range(4)}
    assert len(plans) == 4
    assert make(groups="random", n_banks=3, seed=2).to_json() in plans


def test_macs_are_per_sample(plan: Plan) -> None:
    macs = {layer.name: layer.macs for layer in plan.layers}
    # The embedding is looked up for nothing, and its tied use as the head multiplies.
    assert macs["embed.weight"] == 5 * 16 * 50
    assert macs["wide.weight"] == 5 * 16 * 64
    assert plan.n_macs == sum(m for m in macs.values() if m is not None)
    assert make().n_macs is None


def test_generation_macs(plan: Plan) -> None:
    assert plan.generation_macs == sum(layer.n * max(1, layer.k) for layer in plan.layers)
    assert make("100%", groups="own").generation_macs == 0


def test_layers_are_found_by_any_of_their_names(plan: Plan) -> None:
    embed = plan.layer("embed.weight")
    assert plan.layer("embed") is plan.layer("head.weight") is embed
    assert embed.aliases == ("head.weight",)
    assert embed.padding_idx is None  # the tied head trains that row
    assert embed.uses == 2


@pytest.mark.parametrize(("name", "near"), [("wied.weight", "wide.weight"), ("bak", "back.weight")])
def test_an_unknown_layer_names_the_nearest(plan: Plan, name: str, near: str) -> None:
    for find in (plan.layer, plan.explain):
        with pytest.raises(PlanError, match=f"no layer '{name}'") as caught:
            find(name)
        assert near in str(caught.value)


@pytest.mark.parametrize("name", ["", "nothing at all"])
def test_an_unknown_layer_without_a_nearest(plan: Plan, name: str) -> None:
    with pytest.raises(PlanError, match="no layer"):
        plan.layer(name)


def test_table_has_a_row_a_layer(plan: Plan) -> None:
    text = shown(plan)
    assert plan.table().row_count == len(plan.layers)
    for layer in plan.layers:
        assert layer.name in text
        assert f"{layer.n:,}" in text
        assert f"{layer.macs:,}" in text
    assert "= head.weight" in text
    assert f"{plan.n_params:,} of {plan.budget_params:,}" in text
    assert "scale or shift of a normalisation" in " ".join(text.split())


def test_table_does_not_read_markup() -> None:
    model = nn.Sequential()
    model.add_module("[bold]x[", nn.Linear(4, 4))
    model.add_module("y", nn.Linear(4, 4))
    plan = npas.plan(model, 30, groups="single")
    assert "[bold]x[.weight" in shown(plan)


def test_summary_adds_up(plan: Plan) -> None:
    lines = plan.summary().splitlines()
    assert lines[0].startswith("budget 40%: ")
    counts = [int(line.split()[0].replace(",", "")) for line in lines if line.startswith("   ")]
    assert sum(counts) == plan.n_params
    assert "8 layers in 1 bank (single)" not in plan.summary()  # the tied weight is one layer
    assert f"{len(plan.layers)} layers in 1 bank (single):" in plan.summary()
    assert f"{plan.banks[0].size:,} elements" in plan.summary()


def test_summary_of_every_mode_adds_up() -> None:
    overrides: dict[str, dict[str, Any]] = {
        "blocks.0": {"downsample": "emb"},
        "blocks.1": {"downsample": "avg", "scale": True},
        "blocks.2": {"downsample": "rr"},
    }
    for budget in ("15%", "40%", "100%", "200%"):
        plan = make(budget, overrides=overrides)
        lines = plan.summary().splitlines()
        counts = [int(line.split()[0].replace(",", "")) for line in lines if line[:3] == "   "]
        assert sum(counts) == plan.n_params


def test_explain_says_where_a_weight_comes_from(plan: Plan) -> None:
    text = plan.explain("wide")
    assert text.startswith("wide.weight: linear 64x16, 1,024 elements of float32")
    assert f"from bank b0 of {plan.banks[0].size:,} elements" in text
    assert f"in the bank with {len(plan.layers) - 1} other layers" in text
    assert "one bank for all layers" in text
    assert "tied with head.weight" in plan.explain("embed")
    padded = nn.Sequential(nn.Embedding(50, 16, padding_idx=3), nn.Linear(16, 16))
    assert "row 3 (padding) stays zero" in npas.plan(padded, "40%", groups="single").explain("0")
    every = plan.explain()
    assert every.count("elements of float32") == len(plan.layers)
    assert plan.explain("wide") in every


def test_explain_names_those_that_share_elements(plan: Plan) -> None:
    """Overlaps are recomputed from the windows, element by element."""
    used: dict[str, set[int]] = {}
    for layer in plan.layers:
        starts = [layer.base + t * layer.stride for t in range(layer.k)]
        used[layer.name] = (
            {e for start in starts for e in range(start, start + layer.n)}
            if layer.k
            else set(range(plan.banks[0].size))
        )
    for name, elements in used.items():
        others = {other for other in used if other != name and used[other] & elements}
        text = plan.explain(name)
        assert f"{len(others)} of them use some of the same elements" in text
        assert all(other in text for other in others)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"downsample": "wavg"}, "weighted by learned coefficients (WAvg, 3.1.1)"),
        ({"downsample": "emb"}, "weighted by coefficients from its layer embedding (Emb, 3.1.1)"),
        ({"downsample": "avg"}, "averaged (B.2)"),
        ({"downsample": "rr"}, "used as it is, elements"),
        ({"budget": "12%", "upsample": "mask"}, "times learned window-9 masks (3.1.2)"),
        ({"budget": "12%", "upsample": "inter"}, "upsampled, bilinear interpolation"),
        ({"budget": "12%", "upsample": "repeat"}, "tiles (B.4)"),
        ({"groups": "own"}, "alone in the bank"),
        ({"groups": "own", "budget": "100%"}, "an ordinary parameter, no generation"),
        (
            {"overrides": {"blocks": {"scale": True, "downsample": "avg"}}},
            "times one learnable scalar",
        ),
    ],
)
def test_explain_of_every_mode(arguments: dict[str, Any], says: str) -> None:
    assert says in make(**arguments).explain()


def test_diff_of_a_plan_with_itself_is_empty(plan: Plan) -> None:
    assert plan.diff(plan) == ()
    assert plan.diff(Plan.from_json(plan.to_json())) == ()


def test_diff_is_empty_only_for_equal_plans() -> None:
    plans = [
        make(),
        make(seed=1),
        make("41%"),
        make(downsample="emb"),
        make(upsample="inter"),
        make(k=5),
        make(groups="own"),
        make(groups={"*": "b0"}),
        make(example_inputs=(IDS,)),
        make(ignored_modules=["wide"]),
        make(overrides={"wide": {"scale": True}}),
    ]
    for one in plans:
        for other in plans:
            assert bool(one.diff(other)) == (one.to_json() != other.to_json())
            assert len(one.diff(other)) == len(other.diff(one))


def test_diff_sees_the_order_of_banks_and_layers(plan: Plan) -> None:
    own = make(groups="own")
    turned = dataclasses.replace(own, banks=own.banks[::-1])
    assert turned.to_json() != own.to_json()
    assert turned.diff(own)


def test_diff_names_each_field(plan: Plan) -> None:
    other = make("80%", seed=1, example_inputs=(IDS,))
    found = {(c.what, c.field): (c.before, c.after) for c in plan.diff(other)}
    assert found["plan", "budget"] == ("40%", "80%")
    assert found["plan", "seed"] == (0, 1)
    assert found["plan", "n_params"] == (plan.n_params, other.n_params)
    assert found["bank b0", "size"] == (plan.banks[0].size, other.banks[0].size)
    assert ("layer wide.weight", "shape") not in found
    text = [str(change) for change in plan.diff(other)]
    assert "plan budget: 40% -> 80%" in text


def test_diff_names_what_came_and_went(plan: Plan) -> None:
    other = make("40%", ignored_modules=["wide"], example_inputs=(IDS,))
    text = [str(change) for change in plan.diff(other)]
    assert "layer wide.weight: gone" in text
    assert "fixed wide.weight: added" in text
    back = [str(change) for change in other.diff(plan)]
    assert "layer wide.weight: added" in back
    assert "fixed wide.weight: gone" in back


def test_a_field_that_becomes_known_is_not_an_addition() -> None:
    text = [str(change) for change in make().diff(make(example_inputs=(IDS,)))]
    assert "layer wide.weight macs: None -> 5120" in text


def test_a_budget_in_bytes_is_of_the_banks_dtype() -> None:
    assert npas.plan(Net(), "8kB", groups="single").budget_params == 2_000
    assert npas.plan(Net().double(), "8kB", groups="single").budget_params == 1_000
    assert npas.plan(Net().half(), "8kB", groups="single").budget_params == 4_000


def test_largest_is_the_sum_of_the_largest_layers() -> None:
    """Tables 5, 8 and 14(c) of the paper."""
    plan = make("largest", groups={"blocks": "small", "wide": "large", "back": "large"})
    assert plan.budget_params == plan.n_fixed + 256 + 1_024 + 800
    assert plan.n_params <= plan.budget_params


def test_patterns_choose_what_is_allocated() -> None:
    plan = make("80%", target_modules=["blocks", "wide"], ignored_modules=["blocks.2"])
    names = [layer.name for layer in plan.layers]
    assert names == [
        "blocks.0.weight",
        "blocks.1.weight",
        "blocks.3.weight",
        "wide.weight",
    ]
    reasons = {fixed.name: fixed.reason for fixed in plan.fixed}
    assert reasons["blocks.2.weight"] == "in ignored_modules"
    assert reasons["back.weight"] == "not in target_modules"
    assert plan.n_dense == N_DENSE


def test_later_overrides_win() -> None:
    plan = make(overrides={"blocks": {"downsample": "emb", "k": 2}, "blocks.1": {"k": 3}})
    assert plan.layer("blocks.0").downsample == plan.layer("blocks.1").downsample == "emb"
    assert (plan.layer("blocks.0").k, plan.layer("blocks.1").k) == (2, 3)


def test_overrides_move_layers_to_banks() -> None:
    plan = make(overrides={"wide": {"bank": "w"}, "back": {"bank": "w"}})
    assert plan.bank_by_name["w"].layers == ("wide.weight", "back.weight")
    assert "wide.weight" not in plan.bank_by_name["b0"].layers


def test_names_that_look_alike_keep_their_own_banks() -> None:
    """``a.b`` and ``a_b`` are one identifier, and two layers."""
    model = nn.Sequential()
    model.add_module("a", nn.Sequential())
    model.get_submodule("a").add_module("b", nn.Linear(8, 8))
    model.add_module("a_b", nn.Linear(8, 8))
    model.add_module("c", nn.Linear(8, 8))
    plan = npas.plan(model, "100%", groups={"c": "c"})
    assert all(len(bank.layers) == 1 for bank in plan.banks)


def test_plan_does_not_read_or_change_the_model() -> None:
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    versions = {name: p._version for name, p in model.named_parameters()}
    npas.plan(model, "40%", example_inputs=(IDS,))
    assert {name: p._version for name, p in model.named_parameters()} == versions
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert model.head.weight is model.embed.weight


def test_plot_is_a_figure(plan: Plan) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = plan.plot()
    assert figure.axes
    pyplot.close(figure)


def test_arguments_are_checked_before_the_model() -> None:
    with pytest.raises(NpasError, match="downsample"):
        npas.plan(None, "10%", downsample="mean")  # type: ignore[arg-type]
