import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import npas
from npas.bank import Bank
from npas.module import Shapeshifter

pytestmark = pytest.mark.pure


class Net(nn.Module):
    """Two graphs (dropout by flag), buffers, lookups, an opaque leaf and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"width": 16, "names": ["a"]}
        self.embedding = nn.Embedding(30, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm1d(16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.fc = nn.Linear(16, 16)
        self.head = nn.Linear(16, 30)
        self.head.weight = self.embedding.weight
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("hidden", torch.ones(3), persistent=False)

    def forward(self, ids: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
        x = self.norm(self.conv(self.embedding(ids).transpose(1, 2))).transpose(1, 2)
        x = F.dropout(self.lstm(x)[0], 0.2, self.training)
        if self.training:
            x = x + 1
        return self.head(torch.relu(self.fc(x))) * self.scale + shift


IDS = torch.randint(0, 30, (3, 5), generator=torch.Generator().manual_seed(0))


def make(budget: float = 0.7, **options: Any) -> Shapeshifter:
    torch.manual_seed(0)
    return npas.compile(Net(), budget, **{"groups": "single", **options})


def outputs(module: nn.Module) -> list[torch.Tensor]:
    """Return the outputs in both modes, and leave statistics and mode as they were."""
    mode, state = module.training, copy.deepcopy(module.state_dict())
    found = []
    for training in (True, False):
        torch.manual_seed(5)
        found.append(module.train(training)(IDS).detach())
    module.train(mode).load_state_dict(state)
    return found


def assert_same_outputs(found: nn.Module, expected: nn.Module) -> None:
    for a, b in zip(outputs(found), outputs(expected), strict=True):
        assert torch.equal(a, b)


def test_it_is_a_graph_module_of_the_originals_name() -> None:
    ssn = make()
    assert isinstance(ssn, fx.GraphModule)
    assert type(ssn).__name__ == "Net" or ssn._get_name() == "Net"
    assert "def forward(self, ids, shift = 0.0)" in ssn.code.replace(" : torch.Tensor", "")


def test_the_code_reads_as_the_users_own() -> None:
    lines = [line.split(";")[0].strip() for line in make().code.splitlines() if "=" in line]
    text = "\n".join(lines)
    assert "b0_conv_weight = self.npas.banks.b0('conv.weight')" in text
    assert "conv = self.conv(transpose, generated = {'weight': b0_conv_weight})" in text
    assert "norm = self.norm(conv)" in text
    order = [text.index(name) for name in ("b0_embedding_weight =", "b0_conv_weight =", "conv =")]
    assert order == sorted(order)


def test_the_mode_switches_the_graph() -> None:
    ssn = make()
    trains = ssn.code
    assert "dropout" in trains and "training = True" in trains
    ssn.eval()
    assert ssn.code != trains and "training = False" in ssn.code
    assert torch.equal(ssn(IDS), ssn(IDS))
    ssn.train()
    assert ssn.code == trains
    assert not torch.equal(ssn(IDS), ssn(IDS))


def test_a_model_in_eval_mode_compiles_to_one_in_eval_mode() -> None:
    torch.manual_seed(0)
    ssn = npas.compile(Net().eval(), 0.7, groups="single")
    assert not ssn.training and not any(m.training for m in ssn.modules())
    assert "training = False" in ssn.code


def test_modes_of_submodules_are_kept() -> None:
    model = Net()
    model.norm.eval()
    ssn = npas.compile(model, 0.7, groups="single")
    assert ssn.training and not ssn.get_submodule("norm").training
    before = ssn.state_dict()["norm.running_mean"].clone()
    ssn(IDS)
    assert torch.equal(ssn.state_dict()["norm.running_mean"], before)


def test_inside_another_module_the_mode_follows() -> None:
    ssn = make()
    outer = nn.Sequential(ssn).eval()
    assert "training = False" in ssn.code
    assert torch.equal(outer(IDS), outer(IDS))


def test_state_dict_has_the_originals_keys_first_and_then_the_banks() -> None:
    model, ssn = Net(), make()
    keys = list(ssn.state_dict())
    banks = [key for key in keys if key.startswith("npas.")]
    assert keys[-len(banks) :] == banks
    plan = ssn._npas.plan
    gone = {n for layer in plan.layers for n in (layer.name, *layer.aliases)}
    assert keys[: -len(banks)] == [key for key in model.state_dict() if key not in gone]
    assert banks[0] == "npas.banks.b0.theta"
    assert "scale" in keys and "hidden" not in keys and "norm.running_var" in keys
    for name, value in ssn.state_dict().items():
        if name in model.state_dict():
            assert value.shape == model.state_dict()[name].shape


def test_own_banks_at_100_percent_have_the_originals_state_dict() -> None:
    model = Net()
    ssn = npas.compile(model, 1.0, groups="own")
    assert list(ssn.state_dict()) == list(model.state_dict())
    assert [n for n, _ in ssn.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert_same_outputs(ssn, model)
    model.load_state_dict(ssn.state_dict())


def test_loading_is_strict() -> None:
    ssn, other = make(), make()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.25)
    assert str(ssn.load_state_dict(other.state_dict())) == "<All keys matched successfully>"
    assert_same_outputs(ssn, other)
    state = dict(other.state_dict())
    del state["npas.banks.b0.theta"], state["conv.bias"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\).*"conv.bias".*"npas.banks.b0.theta"'):
        ssn.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\).*"conv.weight"'):
        ssn.load_state_dict({**other.state_dict(), "conv.weight": torch.zeros(16, 16, 3)})
    with pytest.raises(RuntimeError, match=r"size mismatch for npas\.banks\.b0\.theta"):
        ssn.load_state_dict({**other.state_dict(), "npas.banks.b0.theta": torch.zeros(3)})


def test_loading_gains_changes_whether_weights_are_views() -> None:
    ssn = make()
    state = {n: t.clone() for n, t in ssn.state_dict().items()}
    for name in state:
        if name.endswith("gain"):
            state[name].fill_(1.0)
    other = copy.deepcopy(ssn)
    other.load_state_dict(state)
    assert not torch.equal(outputs(other)[1], outputs(ssn)[1])
    other.load_state_dict(ssn.state_dict())
    assert_same_outputs(other, ssn)


def test_deepcopy() -> None:
    for mode in (True, False):
        ssn = make().train(mode)
        copied = copy.deepcopy(ssn)
        assert copied.training is mode
        assert copied.code == ssn.code
        assert_same_outputs(copied, ssn)
        theirs = {t.untyped_storage().data_ptr() for t in (*ssn.parameters(), *ssn.buffers())}
        for tensor in (*copied.parameters(), *copied.buffers()):
            assert tensor.untyped_storage().data_ptr() not in theirs
        before = outputs(ssn)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.zero_()
        for a, b in zip(outputs(ssn), before, strict=True):
            assert torch.equal(a, b)
        # Banks of a copy share the copy's record of live weights, not the original's.
        (bank,) = (m for m in copied.modules() if isinstance(m, Bank))
        assert bank._live is copied._npas.live is not ssn._npas.live
        copied(IDS).sum().backward()
        assert all(p.grad is None for p in ssn.parameters())


def test_copying_a_module_that_holds_it() -> None:
    outer = nn.ModuleList([make()])
    copied = copy.deepcopy(outer)
    assert_same_outputs(copied[0], outer[0])


def test_pickle_and_torch_save() -> None:
    for mode in (True, False):
        ssn = make().train(mode)
        expected = outputs(ssn)
        file = io.BytesIO()
        torch.save(ssn, file)
        file.seek(0)
        for loaded in (
            pickle.loads(pickle.dumps(ssn)),
            torch.load(file, weights_only=False),
            pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(ssn)))),
        ):
            assert loaded.training is mode
            assert list(loaded.state_dict()) == list(ssn.state_dict())
            for found, wanted in zip(outputs(loaded), expected, strict=True):
                assert torch.equal(found, wanted)
            assert loaded.config == ssn.config
            assert loaded._npas.plan == ssn._npas.plan
            assert npas.report(loaded).front_end == "fx"
            loaded.train()(IDS).sum().backward()
        # Pickling leaves the module as it was.
        assert ssn.training is mode
        for found, wanted in zip(outputs(ssn), expected, strict=True):
            assert torch.equal(found, wanted)


def test_one_graph_stays_one_after_copying_and_pickling() -> None:
    torch.manual_seed(0)
    ssn = npas.compile(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), 0.8, groups="single")
    assert ssn._graphs[True] is ssn._graphs[False]
    for other in (copy.deepcopy(ssn), pickle.loads(pickle.dumps(ssn))):
        assert other._graphs[True] is other._graphs[False]


def test_the_code_reads_the_same_after_copying_and_pickling() -> None:
    ssn = make()
    for other in (copy.deepcopy(ssn), pickle.loads(pickle.dumps(ssn))):
        assert [n.name for n in other.graph.nodes] == [n.name for n in ssn.graph.nodes]
        assert other.code == ssn.code


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("budget", [0.4, 0.7, 3.0])
def test_moving_to_another_dtype(dtype: torch.dtype, budget: float) -> None:
    ssn = make(budget).eval()
    expected = ssn(IDS)
    moved = copy.deepcopy(ssn).to(dtype)
    found = moved(IDS)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float64 else 0.1
    assert torch.allclose(found.float(), expected, rtol=tolerance, atol=tolerance)
    for parameter in moved.parameters():
        assert parameter.dtype == dtype
    moved.train()(IDS).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in moved.parameters())
    with torch.no_grad():
        assert moved.eval()(IDS).dtype == dtype


def test_half_and_back_is_within_half_precision() -> None:
    ssn = make().eval()
    expected = ssn(IDS)
    assert torch.allclose(ssn.half().float()(IDS), expected, rtol=0.05, atol=0.05)


def test_moving_to_meta_and_back_empty() -> None:
    ssn = make()
    state = ssn.state_dict()
    moved = copy.deepcopy(ssn).to("meta")
    assert all(p.is_meta for p in moved.parameters())
    assert moved.eval()(IDS.to("meta")).shape == (3, 5, 30)
    empty = moved.to_empty(device="cpu")
    empty.load_state_dict(state)
    empty.hidden = torch.ones(3)
    assert_same_outputs(empty, ssn)


def test_attributes_of_the_root_are_kept_and_copied() -> None:
    torch.manual_seed(0)
    model = Net()
    ssn = npas.compile(model, 0.7, groups="single")
    assert ssn.config == model.config and ssn.config is not model.config
    assert torch.equal(ssn.get_buffer("scale"), model.scale) and ssn.scale is not model.scale
    assert [n for n, _ in ssn.named_buffers() if not n.startswith("npas.")] == [
        n for n, _ in model.named_buffers()
    ]
    theirs = [n for n, _ in model.named_modules()]
    ours = [n for n, _ in ssn.named_modules() if n.partition(".")[0] != "npas"]
    assert ours == theirs


def test_a_buffer_that_is_assigned_is_used() -> None:
    ssn = make().eval()
    before = ssn(IDS)
    ssn.scale = ssn.get_buffer("scale") * 2
    assert torch.allclose(ssn(IDS), before * 2)


def test_calls_by_position_and_by_name() -> None:
    ssn = make().eval()
    assert torch.equal(ssn(IDS), ssn(ids=IDS))
    assert torch.equal(ssn(IDS), ssn(IDS, shift=0.0))


def test_freezing_and_zeroing() -> None:
    ssn = make()
    ssn(IDS).sum().backward()
    ssn.zero_grad()
    assert all(p.grad is None for p in ssn.parameters())
    ssn.requires_grad_(False)
    assert not ssn(IDS).requires_grad
    ssn.requires_grad_(True)
    ssn.npas.requires_grad_(False)
    ssn(IDS).sum().backward()
    (bank,) = (m for m in ssn.modules() if isinstance(m, Bank))
    assert bank.theta.grad is None
    grads = [p.grad for n, p in ssn.named_parameters() if not n.startswith("npas.")]
    assert all(grad is not None for grad in grads)


def test_trainable_parameters_are_those_of_the_plan() -> None:
    for downsample in ("wavg", "emb"):
        for budget in (0.4, 0.7, 3.0):
            ssn = make(budget, downsample=downsample)
            assert sum(p.numel() for p in ssn.parameters()) == ssn._npas.plan.n_params


def test_outputs_that_are_dicts_tuples_and_dataclasses() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
            y = self.fc(batch["x"])
            return {"y": y, "pair": (y, [batch["x"]]), "n": 3}

    ssn = npas.compile(Many(), 0.9, groups="single")
    found = ssn({"x": torch.ones(2, 8)})
    assert list(found) == ["y", "pair", "n"] and found["n"] == 3
    assert found["pair"][0] is found["y"]


def test_a_training_loop_learns() -> None:
    ssn = make()
    optimizer = torch.optim.AdamW(npas.param_groups(ssn, weight_decay=0.01), lr=0.02)
    targets = IDS.flip(0)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = F.cross_entropy(ssn(IDS).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_same_seed_compiles_the_same_module() -> None:
    for name, value in make().state_dict().items():
        assert torch.equal(value, make().state_dict()[name])
