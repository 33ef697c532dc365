import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import npas
import npas.saved as saved_module
from benchmarks.kills import kill_saves
from npas import plan_json
from npas.errors import CheckpointError, NpasError, PlanError
from npas.module import Shapeshifter
from npas.saved import _hash_of_plan, write_folder

pytestmark = pytest.mark.pure


def files_of(folder: Path) -> tuple[Path, Path]:
    """Return plan.json and the only other file, which it names."""
    plan, weights = sorted(folder.iterdir())
    assert plan.name == "plan.json"
    assert weights.name == json.loads(plan.read_text())["saved"]["file"]
    return plan, weights


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
    shutil.copytree(saved[0], tmp_path / "copy")
    return tmp_path / "copy"


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
    files_of(tmp_path)
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
    weights = files_of(folder)[1]
    assert hashlib.sha256(weights.read_bytes()).hexdigest()[:16] in weights.name
    with safe_open(weights, framework="pt") as file:
        keys = list(file.keys())
        assert sorted(keys) == sorted(ssn.state_dict())
    assert sum(key.endswith("theta") for key in keys) == 1
    assert not any("head.weight" in key or "embedding.weight" in key for key in keys)


def test_saving_again_replaces(saved: tuple[Path, Shapeshifter], folder: Path) -> None:
    other = trained(0.4, seed=3)
    before = files_of(folder)[1]
    npas.save(other, folder)
    assert files_of(folder)[1] != before
    assert_same(npas.load(folder, Net), other)
    files = [path.read_bytes() for path in files_of(folder)]
    npas.save(other, folder)
    assert [path.read_bytes() for path in files_of(folder)] == files


def test_saving_makes_the_folders(tmp_path: Path) -> None:
    npas.save(trained(), tmp_path / "a" / "b")
    files_of(tmp_path / "a" / "b")


@pytest.mark.parametrize("call", ["replace", "fsync", "unlink"])
def test_an_interrupted_save_leaves_a_whole_module(
    folder: Path, saved: tuple[Path, Shapeshifter], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    other = trained(0.4, seed=3)
    states: list[bool] = []
    for fails_at in range(1, 9):
        calls: list[Any] = []
        original = getattr(os, call)

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)  # noqa: B023
            if len(calls) == fails_at:  # noqa: B023
                raise KeyboardInterrupt
            return original(*args, **kwargs)  # noqa: B023

        shutil.rmtree(folder)
        shutil.copytree(saved[0], folder)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, interrupted)
            try:
                npas.save(other, folder)
            except KeyboardInterrupt:
                pass
            else:
                break  # past the last call
        loaded = npas.load(folder, Net)
        states.append(loaded._npas.plan == other._npas.plan)
        assert_same(loaded, other if states[-1] else saved[1])
        npas.save(other, folder)
        files_of(folder)  # what was left is gone
    assert states == sorted(states)
    assert states


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
    files_of(folder)[1].unlink()
    refused(folder, r"weights-\w+\.safetensors: not there; plan\.json names it")


def test_a_missing_plan(folder: Path) -> None:
    (folder / "plan.json").unlink()
    refused(folder, r"plan\.json: not there; load takes a folder that npas\.save wrote")


@pytest.mark.parametrize("file", [0, 1])
def test_truncated_anywhere(folder: Path, file: int) -> None:
    path = files_of(folder)[file]
    whole = path.read_bytes()
    for end in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:end])
        refused(folder)


@pytest.mark.parametrize("file", [0, 1])
def test_a_bit_flipped_anywhere(folder: Path, file: int) -> None:
    path = files_of(folder)[file]
    whole = bytearray(path.read_bytes())
    for position in range(0, len(whole), len(whole) // 40):
        spoiled = bytearray(whole)
        spoiled[position] ^= 0x10
        path.write_bytes(spoiled)
        refused(folder)


def consistent(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Write the tensors anew, with something changed and every hash right."""
    plan, weights = files_of(folder)
    with safe_open(weights, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors)
    how = json.loads(plan.read_text())["saved"]["how"]
    write_folder(folder, npas.Plan.load(plan), how, tensors)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda tensors: tensors.pop("fc.bias"), "fc.bias is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "extra is not in the model"),
        (lambda t: t.update({"fc.bias": t["fc.bias"].long()}), "of torch.int64, the model has"),
        (lambda t: t.update({"fc.bias": t["fc.bias"][None]}), r"fc.bias is \(1, 16\)"),
    ],
)
def test_other_tensors(folder: Path, change: Callable[..., None], match: str) -> None:
    consistent(folder, change)
    refused(folder, match)


def test_a_file_of_something_else_under_the_right_name(folder: Path) -> None:
    plan, weights = files_of(folder)
    weights.unlink()
    data = b"no tensors" * 100
    digest = hashlib.sha256(data).hexdigest()
    head = json.loads(plan.read_text())["saved"]
    head |= {"file": f"weights-{digest[:16]}.safetensors", "bytes": len(data), "sha256": digest}
    (folder / head["file"]).write_bytes(data)
    sign(plan, head)
    refused(folder, "not safetensors")


def sign(path: Path, head: dict[str, Any]) -> None:
    """Write plan.json with this part about tensors, its hash right."""
    data = json.loads(path.read_text())
    head["plan_sha256"] = _hash_of_plan(npas.Plan.load(path), head)
    path.write_text(json.dumps(data | {"saved": head}))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"format": 99}, "saved.format: 99 found, 2 required"),
        ({"format": True}, "saved.format"),
        ({"file": "../weights-0123456789abcdef.safetensors"}, "saved.file"),
        ({"file": "/etc/passwd"}, "saved.file"),
        ({"file": None}, "saved.file"),
        ({"bytes": -1}, "saved.bytes"),
        ({"bytes": "1"}, "saved.bytes"),
        ({"bytes": 10**12}, "bytes, 1,000,000,000,000 were saved"),
        ({"sha256": "0" * 64}, "altered since it was saved"),
        ({"sha256": 3}, "saved.sha256"),
        ({"how": {}}, "saved.how"),
        ({"how": None}, "saved.how"),
        ({"more": 1}, "saved.more"),
    ],
)
def test_fields_about_the_tensors(folder: Path, change: dict[str, Any], field: str) -> None:
    plan = files_of(folder)[0]
    sign(plan, json.loads(plan.read_text())["saved"] | change)
    refused(folder, field)


def test_how_it_was_compiled_is_checked(folder: Path) -> None:
    plan = files_of(folder)[0]
    head = json.loads(plan.read_text())["saved"]
    wrong: list[dict[str, Any]] = [
        {"schedule": "no such"},
        {"schedule": []},
        {"recompute": 1},
        {"n_inputs": -1},
        {"n_inputs": True},
        {"keywords": [1]},
        {"keywords": "x"},
        {"frontend": 3},
    ]
    for change in wrong:
        sign(plan, head | {"how": head["how"] | change})
        refused(folder, "saved.how")


def test_a_link_in_place_of_the_tensors(folder: Path) -> None:
    weights = files_of(folder)[1]
    weights.rename(folder / "elsewhere")
    weights.symlink_to(folder / "elsewhere")
    refused(folder, "a link")


def test_a_plan_that_asks_for_more_than_the_file_has(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(10**6, 10**6, bias=False), nn.Linear(2, 2))
    plan = npas.plan(model, 10**9, groups="single")
    how = {"frontend": "fx", "n_inputs": 1, "keywords": [], "schedule": "auto", "recompute": "auto"}
    write_folder(tmp_path, plan, how, {"a": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="elements by the plan, and all tensors"):
        npas.load(tmp_path, model)


def test_a_plan_larger_than_any(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_json, "MOST_PLAN_BYTES", 1000)
    refused(folder, "larger than any plan, 1,000 bytes")


def test_saved_anew_while_it_is_read(
    folder: Path, saved: tuple[Path, Shapeshifter], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, read = trained(0.4, seed=3), saved_module._read

    def slow(*arguments: Any) -> Any:
        monkeypatch.undo()
        npas.save(other, folder)
        return read(*arguments)

    monkeypatch.setattr(saved_module, "_read", slow)
    assert_same(npas.load(folder, Net), other)


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
    plan = files_of(folder)[0]
    other = json.loads(npas.plan(Net(), 0.8, groups="single").to_json())
    plan.write_text(json.dumps(other | {"saved": json.loads(plan.read_text())["saved"]}))
    refused(folder, "altered since it was saved")
    plan.write_text(json.dumps(other))
    refused(folder, "a plan, and not of a saved module")


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


def test_a_folder_of_the_first_format_loads_and_is_saved_in_this_one(tmp_path: Path) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 4))

    folder = tmp_path / "copy"
    shutil.copytree(Path(__file__).parent / "golden" / "saved-1", folder)
    x = torch.linspace(-1, 1, 12).view(3, 4)
    expected = [-0.34718218, -0.17802456, 0.46715289, 0.05626427]
    loaded = npas.load(folder, model).eval()
    torch.testing.assert_close(loaded(x)[0].detach(), torch.tensor(expected))
    npas.save(loaded, folder)
    files_of(folder)
    assert torch.equal(npas.load(folder, model).eval()(x), loaded(x))


def test_what_a_folder_of_the_first_format_may_lack(tmp_path: Path) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 4))

    folder = tmp_path / "copy"
    shutil.copytree(Path(__file__).parent / "golden" / "saved-1", folder)
    plan = folder / "plan.json"
    text = plan.read_text(encoding="utf-8")
    whole = npas.load(folder, model).state_dict()
    plan.write_text("{}", encoding="utf-8")
    refused(folder, r"plan\.json: ")
    plan.write_bytes(b"\xff" + text.encode())
    refused(folder, r"plan\.json: cannot be read")
    plan.unlink()
    found = npas.load(folder, model).state_dict()  # the tensors have a plan with them
    assert all(torch.equal(found[name], value) for name, value in whole.items())
    weights = folder / "model.safetensors"
    save_file(load_file(weights), weights)
    refused(folder, r"model\.safetensors: not written by this version")


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json"])
def test_a_spoiled_folder_of_the_first_format(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(Path(__file__).parent / "golden" / "saved-1", folder)
    whole = (folder / name).read_bytes()
    for position in range(0, len(whole), len(whole) // 20):
        spoiled = bytearray(whole)
        spoiled[position] ^= 0x10
        (folder / name).write_bytes(spoiled)
        refused(folder)


def test_a_save_that_is_killed_leaves_one_of_two_modules() -> None:
    found = kill_saves(8)
    assert found.get("first", 0) + found.get("second", 0) == 8
