import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import npas
from npas.errors import CheckpointError, NpasError, PlanError
from npas.module import Shapeshifter

pytestmark = pytest.mark.pure

FILES = ("plan.json", "model.safetensors")


class Net(nn.Module):
    """Tied weights, batch norm, a scalar buffer, one that is not saved, an opaque leaf."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, width, padding_idx=0)
        self.norm = nn.BatchNorm1d(width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.fc = nn.Linear(width, width)
        self.head = nn.Linear(width, 30)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("hidden", torch.ones(3), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embedding(ids).transpose(1, 2)).transpose(1, 2)
        return self.head(torch.relu(self.fc(self.lstm(x)[0]))) * self.scale


IDS = torch.randint(0, 30, (3, 5), generator=torch.Generator().manual_seed(0))


def trained(budget: float = 0.7, seed: int = 0, **options: Any) -> Shapeshifter:
    torch.manual_seed(seed)
    ssn = npas.compile(Net(), budget, **{"groups": "single", **options})
    optimizer = torch.optim.AdamW(npas.param_groups(ssn), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        ssn(IDS).square().mean().backward()
        optimizer.step()
    return ssn


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    assert list(found.state_dict()) == list(expected.state_dict())
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    found, expected = copy.deepcopy(found), copy.deepcopy(expected)
    for mode in (False, True):
        assert torch.equal(found.train(mode)(IDS), expected.train(mode)(IDS))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shapeshifter]:
    ssn = trained()
    folder = tmp_path_factory.mktemp("saved")
    npas.save(ssn, folder)
    return folder, ssn


@pytest.fixture
def folder(saved: tuple[Path, Shapeshifter], tmp_path: Path) -> Path:
    """Return a copy of the saved folder that a test may spoil."""
    for name in FILES:
        (tmp_path / name).write_bytes((saved[0] / name).read_bytes())
    return tmp_path


def refused(folder: Path, match: str | None = None, **options: Any) -> CheckpointError:
    """Check that loading fails with a CheckpointError, and leaves the model it is given alone."""
    model = options.get("model", Net())
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=match) as caught:
        npas.load(folder, model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    return caught.value


@pytest.mark.parametrize("budget", [0.4, 0.7, 2.0])
@pytest.mark.parametrize("options", [{"downsample": "emb"}, {"groups": "by_shape"}, {}])
def test_what_is_loaded_is_what_was_saved(
    tmp_path: Path, budget: float, options: dict[str, Any]
) -> None:
    ssn = trained(budget, **options)
    npas.save(ssn, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES)
    loaded = npas.load(tmp_path, Net)
    assert_same(loaded, ssn)
    assert loaded._npas.plan == ssn._npas.plan
    assert loaded.training
    dense = npas.materialize(loaded.eval())
    assert torch.allclose(dense(IDS), ssn.eval()(IDS), rtol=1e-5, atol=1e-6)


def test_own_banks_at_100_percent(tmp_path: Path) -> None:
    ssn = trained(1.0, groups="own")
    npas.save(ssn, tmp_path)
    assert_same(npas.load(tmp_path, Net), ssn)


def test_a_model_or_a_callable(saved: tuple[Path, Shapeshifter]) -> None:
    folder, ssn = saved
    model = Net()
    state = copy.deepcopy(model.state_dict())
    loaded = npas.load(folder, model)
    assert_same(loaded, ssn)
    assert_same(npas.load(str(folder), lambda: Net(16)), ssn)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_the_mode_of_the_model_that_is_given(saved: tuple[Path, Shapeshifter]) -> None:
    assert not npas.load(saved[0], Net().eval()).training
    assert npas.load(saved[0], Net).training


def test_loading_trains_on(saved: tuple[Path, Shapeshifter]) -> None:
    loaded = npas.load(saved[0], Net)
    loaded(IDS).square().mean().backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_the_files_are_plain(saved: tuple[Path, Shapeshifter]) -> None:
    folder, ssn = saved
    assert npas.Plan.load(folder / "plan.json") == ssn._npas.plan
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        keys = list(file.keys())
        assert sorted(keys) == sorted(ssn.state_dict())
        assert json.loads(file.metadata()["plan"])["npas_plan"] == 1
    assert sum(key.endswith("theta") for key in keys) == 1
    assert not any("head.weight" in key or "embedding.weight" in key for key in keys)


def test_saving_again_replaces(saved: tuple[Path, Shapeshifter], folder: Path) -> None:
    other = trained(0.4, seed=3)
    npas.save(other, folder)
    assert_same(npas.load(folder, Net), other)


def test_saving_makes_the_folders(tmp_path: Path) -> None:
    npas.save(trained(), tmp_path / "a" / "b")
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("fails_at", [1, 2])
def test_an_interrupted_save_leaves_a_whole_module(
    folder: Path,
    saved: tuple[Path, Shapeshifter],
    monkeypatch: pytest.MonkeyPatch,
    fails_at: int,
) -> None:
    calls: list[Any] = []
    replace = os.replace

    def interrupted(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        replace(*args, **kwargs)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        npas.save(trained(0.4, seed=3), folder)
    monkeypatch.undo()
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    if fails_at == 2:
        # The weights carry the plan that they were saved with.
        refused(folder, "interrupted save")
        (folder / "plan.json").unlink()
    assert_same(npas.load(folder, Net), saved[1])


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        npas.save(trained(), tmp_path / "file" / "folder")


def test_saving_something_else(tmp_path: Path) -> None:
    with pytest.raises(NpasError, match="Net was not compiled by npas"):
        npas.save(Net(), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "not there")
    refused(tmp_path, "not there")


def test_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, r"model\.safetensors: not there")


def test_a_missing_plan_is_in_the_weights_file(
    folder: Path, saved: tuple[Path, Shapeshifter]
) -> None:
    (folder / "plan.json").unlink()
    assert_same(npas.load(folder, Net), saved[1])


@pytest.mark.parametrize("name", FILES)
def test_truncated_anywhere(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for end in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        (folder / name).write_bytes(whole[:end])
        refused(folder)


def test_a_bit_flipped_anywhere_in_the_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = bytearray(path.read_bytes())
    for position in range(0, len(whole), len(whole) // 40):
        spoiled = bytearray(whole)
        spoiled[position] ^= 0x10
        path.write_bytes(spoiled)
        refused(folder)


def rewrite(
    folder: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], object]
) -> None:
    """Write the weights file anew, consistent in itself, with something changed."""
    path = folder / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def test_a_value_changed(folder: Path) -> None:
    rewrite(folder, lambda tensors, _: tensors["npas.banks.b0.theta"].add_(1))
    refused(folder, "altered since it was saved")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, metadata: tensors.pop("fc.bias"),
        lambda tensors, metadata: tensors.update(extra=torch.zeros(2)),
        lambda tensors, metadata: tensors.update({"fc.bias": tensors["fc.bias"].double()}),
        lambda tensors, metadata: tensors.update({"fc.bias": tensors["fc.bias"][None]}),
        lambda tensors, metadata: metadata.pop("plan"),
        lambda tensors, metadata: metadata.pop("sha256"),
        lambda tensors, metadata: metadata.pop("npas"),
        lambda tensors, metadata: metadata.update(npas="99"),
        lambda tensors, metadata: metadata.update(sha256="0" * 64),
        lambda tensors, metadata: metadata.update(plan=metadata["plan"] + " "),
    ],
)
def test_tensors_or_metadata_changed(folder: Path, change: Callable[..., None]) -> None:
    rewrite(folder, change)
    refused(folder)


def test_safetensors_of_someone_else(folder: Path) -> None:
    save_file({"a": torch.zeros(3)}, folder / "model.safetensors")
    refused(folder, r"not written by this version of npas\.save")


def altered(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "plan.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d["layers"][0].update(base=10**6), r"layers\[0\]\.base"),
        (lambda d: d["layers"][1].update(shape=[4, 4]), "n_dense"),
        (lambda d: d["banks"][0].update(size=7), "banks|layers"),
        (lambda d: d.update(npas_plan=2), "npas_plan"),
        (lambda d: d.pop("layers"), "layers"),
        (lambda d: d.update(n_params=1), "n_params"),
    ],
)
def test_an_altered_plan_is_an_error_from_the_plan_error(
    folder: Path, change: Callable[[dict[str, Any]], None], field: str
) -> None:
    altered(folder, change)
    error = refused(folder, field)
    assert isinstance(error.__cause__, PlanError)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_a_plan_that_is_no_plan(folder: Path, text: str) -> None:
    (folder / "plan.json").write_text(text)
    assert isinstance(refused(folder, "plan").__cause__, PlanError)


def test_a_plan_that_is_not_text(folder: Path) -> None:
    (folder / "plan.json").write_bytes(b"\xff\xfe\x00")
    refused(folder, "cannot be read")


def test_a_valid_plan_that_is_not_the_one_saved(folder: Path) -> None:
    npas.plan(Net(), 0.8, groups="single").save(folder / "plan.json")
    refused(folder, "not the plan that model.safetensors was saved with")


def test_another_model(saved: tuple[Path, Shapeshifter]) -> None:
    for model in (Net(8), nn.Sequential(nn.Linear(4, 4))):
        error = refused(saved[0], "made for another model", model=model)
        assert isinstance(error.__cause__, PlanError)


def test_a_model_whose_buffers_differ(saved: tuple[Path, Shapeshifter]) -> None:
    model = Net()
    model.register_buffer("more", torch.zeros(2))
    refused(saved[0], "more is missing", model=model)
    model = Net()
    model.scale = torch.zeros(2)
    refused(saved[0], r"scale is \(\)", model=model)


def test_a_model_of_another_dtype(saved: tuple[Path, Shapeshifter]) -> None:
    refused(saved[0], "made for another model", model=Net().double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_in_another_dtype_saves_and_loads(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ssn = npas.compile(Net().to(dtype), 0.7, groups="single")
    npas.save(ssn, tmp_path)
    assert_same(npas.load(tmp_path, lambda: Net().to(dtype)), ssn)


def test_a_module_that_was_moved_to_another_dtype(tmp_path: Path) -> None:
    # Its plan says float32: either saving says so, or the file can be loaded.
    ssn = trained().to(torch.float64)
    try:
        npas.save(ssn, tmp_path)
    except NpasError as error:
        assert "float64" in str(error)
    else:
        assert_same(npas.load(tmp_path, Net), ssn)


def test_loading_onto_meta_is_refused_or_done(saved: tuple[Path, Shapeshifter]) -> None:
    with torch.device("meta"):
        model = Net()
    try:
        loaded = npas.load(saved[0], model)
    except NpasError as error:
        assert "meta" in str(error)
    else:
        assert_same(loaded, saved[1])


def test_zero_weights_do_not_warn_when_loaded(tmp_path: Path) -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
        nn.init.zeros_(model.get_parameter("1.weight"))
        return model

    plan = npas.plan(make(), 0.7, groups="single")
    with pytest.warns(npas.NpasWarning):
        ssn = npas.compile(make(), plan=plan)
    npas.save(ssn, tmp_path)
    # The values come from the file, so how the weight would have started does not matter.
    loaded = npas.load(tmp_path, make)
    assert torch.equal(loaded(torch.ones(1, 16)), ssn(torch.ones(1, 16)))


def test_loading_leaves_the_random_state_as_compile_does(saved: tuple[Path, Shapeshifter]) -> None:
    first = npas.load(saved[0], Net)
    torch.manual_seed(123)
    assert_same(npas.load(saved[0], Net), first)


def test_a_trained_copy_of_a_saved_module_is_not_what_is_saved(tmp_path: Path) -> None:
    ssn = trained()
    npas.save(ssn, tmp_path)
    expected = copy.deepcopy(ssn)
    with torch.no_grad():
        for parameter in ssn.parameters():
            parameter.zero_()
    assert_same(npas.load(tmp_path, Net), expected)


def test_saving_from_evaluation_with_a_full_cache(tmp_path: Path) -> None:
    ssn = trained().eval()
    with torch.no_grad():
        ssn(IDS)
    npas.save(ssn, tmp_path)
    assert_same(npas.load(tmp_path, Net), ssn)
