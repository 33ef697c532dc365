"""Learning a mapping: each part finds what was planted, and does not when it is noise."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import adjusted_rand_score
from torch import nn

import npas
from npas import CheckpointError, Mapping, NpasError, NpasWarning
from npas.searching.bank import SearchBank, template_shape
from npas.searching.loop import SearchStep
from npas.searching.state import random_states

pytestmark = pytest.mark.pure

SIZES = [(24, 24), (16, 24), (24, 16), (12, 12), (16, 16), (24, 20), (20, 12), (24, 24), (16, 20)]
PLANTED = [i % 3 for i in range(len(SIZES))]


class Layers(nn.Module):
    """Layers of several sizes side by side, so that each can be taught on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(c, r, bias=False) for r, c in SIZES)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [layer(x[:, : layer.in_features]) for layer in self.layers]


def lesson() -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """A loss that teaches each layer one of three patterns, resized to its shape."""
    generator = torch.Generator().manual_seed(5)
    patterns = torch.randn(3, 1, 1, 4, 4, generator=generator)
    wanted = [
        F.interpolate(patterns[group], size=size, mode="bilinear", align_corners=True)[0, 0]
        for group, size in zip(PLANTED, SIZES, strict=True)
    ]
    wanted = [w / w.std() / size[1] ** 0.5 for w, size in zip(wanted, SIZES, strict=True)]

    def loss_fn(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        made = model(x)
        errors = [
            (y - x[:, : w.shape[1]] @ w.T).square().mean()
            for y, w in zip(made, wanted, strict=True)
        ]
        return torch.stack(errors).sum()

    return loss_fn


LESSON = lesson()


def inputs(n: int = 120) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 24, generator=generator) for _ in range(n)]


def agreement(mapping: Mapping) -> float:
    """Return how well the banks agree with what was planted: 1 is all, 0 is chance."""
    bank_of = mapping.bank_of
    found = [bank_of[f"layers.{i}.weight"] for i in range(len(SIZES))]
    return float(adjusted_rand_score(PLANTED, found))


def searched(method: str = "emb", seed: int = 0, **options: Any) -> Mapping:
    torch.manual_seed(seed)
    return npas.search(
        Layers(),
        inputs(),
        LESSON,
        groups=3,
        method=method,
        seed=seed,
        optimizer=lambda groups: torch.optim.Adam(groups, lr=2e-2),
        **options,
    )


@pytest.mark.parametrize("method", ["emb", "wavg"])
@pytest.mark.parametrize(("seed", "start"), [(0, "equal"), (1, "equal"), (0, "orthogonal")])
def test_layers_that_learn_the_same_share_a_bank(method: str, seed: int, start: str) -> None:
    mapping = searched(method, seed, start=start)
    assert agreement(mapping) == 1.0
    learned = mapping.learned
    assert learned is not None and learned.losses is not None
    assert learned.losses[1] < learned.losses[0] / 5
    assert learned.silhouette is not None and learned.silhouette > 0.25
    assert (learned.method, learned.steps, learned.seed) == (method, 120, seed)
    assert mapping.source == f"learned ({method})"


def _noise_for_representations(patch: pytest.MonkeyPatch) -> None:
    def noise(bank: SearchBank) -> torch.Tensor:
        return torch.randn(len(bank.weights), 24, generator=torch.Generator().manual_seed(7))

    patch.setattr(SearchBank, "representation", noise)


def _noise_for_resizing(patch: pytest.MonkeyPatch) -> None:
    mixes: dict[tuple[int, ...], torch.Tensor] = {}

    def noise(image: torch.Tensor, size: tuple[int, int], **_: Any) -> torch.Tensor:
        n_out, n_in = size[0] * size[1], image.numel()
        generator = torch.Generator().manual_seed(n_out * 1000 + len(mixes))
        mix = mixes.setdefault(size, torch.randn(n_out, n_in, generator=generator) / n_in**0.5)
        return (mix @ image.flatten()).view(1, 1, *size)

    patch.setattr("npas.searching.bank.F.interpolate", noise)


def _noise_for_clusters(patch: pytest.MonkeyPatch) -> None:
    def noise(points: np.ndarray, n_clusters: int, seed: int, n_init: int) -> np.ndarray:
        return np.random.default_rng(seed).permutation(len(points)) % n_clusters

    patch.setattr(sys.modules["npas.searching.cluster"], "kmeans", noise)


@pytest.mark.parametrize(
    "replace", [_noise_for_representations, _noise_for_resizing, _noise_for_clusters]
)
def test_with_a_part_of_it_noise_the_search_finds_nothing(
    replace: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shows that the test above can fail: each part is needed."""
    with monkeypatch.context() as patch:
        replace(patch)
        found = [agreement(searched(method, 0)) for method in ("emb", "wavg")]
    assert max(found) < 0.6, found


class Small(nn.Module):
    """Four layers, with dropout: what resuming has to get right."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12, padding_idx=3)
        self.recurrent = nn.LSTM(12, 8, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 5)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrent(self.embedding(ids))
        return self.norm(self.head(self.drop(states[:, -1])))


class Batches:
    """Batches that are drawn when they are asked for, with every global generator."""

    def __init__(self, n: int = 8) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(self._n):
            yield torch.randint(0, 20 - np.random.randint(3), (6, 7))


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small()


def mean_square(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return (model(ids) - 1).square().mean()


def find(**options: Any) -> Mapping:
    return npas.search(small(), Batches(), mean_square, **{"groups": 2, **options})


def _stop_after(step: int) -> Callable[[SearchStep], None]:
    def callback(seen: SearchStep) -> None:
        if seen.step == step:
            raise KeyboardInterrupt

    return callback


@pytest.mark.parametrize("method", ["emb", "wavg"])
def test_the_same_seed_gives_the_same_bytes_and_leaves_no_trace(method: str) -> None:
    model = small()
    before = {n: p.clone() for n, p in model.named_parameters()}
    states = repr(random_states())
    first = npas.search(model, Batches(), mean_square, groups=2, method=method, seed=4)
    assert repr(random_states()) == states
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert not any(p.grad is not None for p in model.parameters())
    again = npas.search(model, Batches(), mean_square, groups=2, method=method, seed=4)
    other = npas.search(model, Batches(), mean_square, groups=2, method=method, seed=5)
    assert first.to_json() == again.to_json() != other.to_json()
    assert Mapping.from_json(first.to_json()) == first


@pytest.mark.parametrize("stops", [(1,), (3, 7), (8,)])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, lambda g: torch.optim.SGD(g, 0.1, 0.9)])
def test_an_interrupted_search_goes_on_bit_for_bit(
    stops: tuple[int, ...], optimizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "search.pt"
    whole = find(optimizer=optimizer)
    for step in stops:
        with pytest.raises(KeyboardInterrupt, match=r"search\.pt"):
            find(optimizer=optimizer, checkpoint=path, callbacks=[_stop_after(step)])
        assert f"after step {step} of 8" in capsys.readouterr().err
    seen: list[int] = []
    resumed = find(optimizer=optimizer, checkpoint=path, callbacks=[lambda s: seen.append(s.step)])
    assert resumed.to_json() == whole.to_json()
    assert seen == list(range(stops[-1] + 1, 9))
    assert not path.exists()


def test_a_stream_of_unknown_length_is_taken_whole(capsys: pytest.CaptureFixture[str]) -> None:
    def stream() -> Iterator[torch.Tensor]:
        yield from Batches()

    found = npas.search(small(), stream(), mean_square, groups=2)
    assert found.to_json() == find().to_json()
    with pytest.raises(KeyboardInterrupt):
        npas.search(small(), stream(), mean_square, groups=2, callbacks=[_stop_after(2)])
    assert "after step 2; go on" in capsys.readouterr().err


def test_a_handler_of_the_users_own_stays() -> None:
    seen: list[int] = []

    def handler(number: int, frame: Any) -> None:
        seen.append(number)

    def interrupts(step: SearchStep) -> None:
        assert signal.getsignal(signal.SIGINT) is handler
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, handler)
    try:
        find(callbacks=[interrupts])
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT] * 8


def test_a_long_search_is_saved_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npas.searching.loop._SECONDS_A_SAVE", -1.0)
    path = tmp_path / "search.pt"
    there: list[bool] = []

    def fails_at_the_last(seen: SearchStep) -> None:
        there.append(path.exists())
        if seen.step == 8:
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        find(checkpoint=path, callbacks=[fails_at_the_last])
    assert there == [False] + [True] * 7
    steps: list[int] = []
    resumed = find(checkpoint=path, callbacks=[lambda seen: steps.append(seen.step)])
    assert resumed.to_json() == find().to_json() and steps == [8]


def test_no_more_batches_are_taken_than_steps() -> None:
    stream = iter(list(Batches(5)))
    with torch.no_grad():  # the search's own business
        npas.search(small(), stream, mean_square, groups=2, steps=3)
    assert len(list(stream)) == 2


def test_without_a_checkpoint_an_interrupted_search_is_saved_all_the_same() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        find(callbacks=[_stop_after(2)])
    path = Path(str(caught.value).split("checkpoint='")[1].rstrip("'"))
    assert find(checkpoint=path).to_json() == find().to_json()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"method": "wavg"}, "method"),
        ({"templates": 4}, "templates"),
    ],
)
def test_the_state_of_another_search_is_refused(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "search.pt"
    with pytest.raises(KeyboardInterrupt):
        find(checkpoint=path, callbacks=[_stop_after(2)])
    kept = path.read_bytes()
    with pytest.raises(CheckpointError, match=says):
        find(checkpoint=path, **changed)
    assert path.read_bytes() == kept


def test_a_state_that_was_altered_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.pt"
    with pytest.raises(KeyboardInterrupt):
        find(checkpoint=path, callbacks=[_stop_after(2)])
    state = torch.load(path, weights_only=True)
    for change, says in (
        ({"npas_search": 0}, "another version"),
        ({"losses": ["no number"]}, "not the state of this search"),
        ({"module": {}}, "not the state of this search"),
        ({"optimizer": {}}, "not the state of this search"),
    ):
        torch.save(state | change, path)
        with pytest.raises(CheckpointError, match=rf"search\.pt: .*{says}"):
            find(checkpoint=path)


def test_a_state_that_cannot_be_written(tmp_path: Path) -> None:
    beside = tmp_path / ".search.pt.saving"
    beside.mkdir()  # torch.save raises a RuntimeError
    with pytest.raises(CheckpointError, match=r"search\.pt: the search cannot be saved"):
        find(checkpoint=tmp_path / "search.pt", callbacks=[_stop_after(2)])
    beside.rmdir()

    def in_the_way(seen: SearchStep) -> None:
        (tmp_path / "search.pt" / "file").mkdir(parents=True)
        raise KeyboardInterrupt

    with pytest.raises(CheckpointError, match=r"search\.pt: the search cannot be saved"):
        find(checkpoint=tmp_path / "search.pt", callbacks=[in_the_way])


def test_files_that_are_no_state(tmp_path: Path) -> None:
    path = tmp_path / "search.pt"
    for content in (b"", b"not a file of torch", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"search\.pt"):
            find(checkpoint=path)
        assert path.read_bytes() == content
    torch.save({"npas_search": 1}, path)
    with pytest.raises(CheckpointError, match=r"search\.pt"):
        find(checkpoint=path)
    with pytest.raises(NpasError, match="not there"):
        find(checkpoint=tmp_path / "absent" / "search.pt")


def test_a_real_interrupt_ends_the_step_and_saves(tmp_path: Path) -> None:
    """Ctrl-C in a process of its own, through the command line, and on again."""
    script = tmp_path / "mine.py"
    script.write_text(
        "import pathlib, time, torch\n"
        "from torch import nn\n"
        "def make(wait=0.0):\n"
        "    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 4))\n"
        "    def loss_fn(model, x):\n"
        "        pathlib.Path(__file__).with_name('began').touch()\n"
        "        time.sleep(wait)\n"
        "        return model(x).square().mean()\n"
        "    return model, [torch.ones(5, 6) * i for i in range(40)], loss_fn\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "npas", "search", f"{script}:make", "--groups", "2", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    slow = [*command, str(tmp_path / "a.json"), "--kwargs", '{"wait": 0.2}']
    process = subprocess.Popen(
        slow,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # Whatever runs the tests in the background may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "began").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "search stopped after step" in err
    assert process.returncode == 130, err
    assert not (tmp_path / "a.json").exists()
    subprocess.run([*command, str(tmp_path / "a.json")], check=True, env=environment, timeout=60)
    subprocess.run([*command, str(tmp_path / "b.json")], check=True, env=environment, timeout=60)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert not (tmp_path / "a.json.state").exists()


def test_the_users_own_loop_gives_the_same_mapping() -> None:
    torch.manual_seed(3)
    module = npas.search_model(small(), method="wavg", templates=4)
    optimizer = torch.optim.Adam(npas.param_groups(module), lr=1e-2)
    for ids in Batches(5):
        optimizer.zero_grad()
        mean_square(module, ids).backward()
        optimizer.step()
    mapping = npas.cluster(module, 3, seed=1)
    assert mapping.learned is not None and len(mapping.banks) == 3
    assert list(mapping.learned.representation) == list(mapping.bank_of) or set(
        mapping.learned.representation
    ) == set(mapping.bank_of)
    assert npas.cluster(mapping, 3, seed=1).banks == mapping.banks
    for budget in ("40%", "100%", "200%"):
        plan = npas.plan(small(), budget, groups=mapping)
        assert {bank.name: bank.layers for bank in plan.banks} == mapping.banks
        assert plan.groups == "learned (wavg)"


def test_the_search_models_weights_start_at_the_originals_scale_and_all_train() -> None:
    model = small()
    for method in ("emb", "wavg"):
        torch.manual_seed(0)
        module = npas.search_model(model, method=method, templates=4)
        bank: Any = module.get_submodule("npas.search")
        for name in ("embedding.weight", "recurrent.weight_hh_l0", "head.weight"):
            made, original = bank(name), model.get_parameter(name)
            assert made.shape == original.shape
            assert abs(float(made.detach().std() / original.detach().std()) - 1) < 0.05
        assert not bool(bank("embedding.weight")[3].any())
        n_largest = max(p.numel() for p in model.parameters() if p.dim() > 1)
        assert n_largest * 0.8 < bank.theta.numel() <= n_largest
        mean_square(module, next(iter(Batches()))).backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.any()), name
        assert all(p.grad is None for p in model.parameters())
    with pytest.raises(NpasError, match="compiled by npas already"):
        npas.compile(module, "50%")


def test_a_weight_that_is_zero_starts_at_zero_and_learns() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    nn.init.zeros_(model[1].weight)  # type: ignore[arg-type]
    for method in ("emb", "wavg"):
        module = npas.search_model(model, method=method, templates=4)
        x = torch.randn(16, 8)
        assert not bool(module[1].weight.any())  # type: ignore[index]
        optimizer = torch.optim.Adam(npas.param_groups(module), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            (module(x) - 1).square().mean().backward()
            optimizer.step()
        assert bool(module[1].weight.any())  # type: ignore[index]


def test_templates_are_strips_of_the_largest_layer() -> None:
    from npas.passes.collect import WeightOp

    def op(*shape: int) -> WeightOp:
        return WeightOp("w", (), "linear", shape, "float32", 1)

    assert template_shape(op(64, 3, 3, 3), 8) == (8, 27)
    assert template_shape(op(4, 100), 8) == (4, 12)
    with pytest.raises(NpasError, match="at most 5"):
        template_shape(op(4, 5), 8)


def test_auto_finds_how_many_groups_there_are() -> None:
    torch.manual_seed(0)
    mapping = npas.search(
        Layers(), inputs(), LESSON, optimizer=lambda groups: torch.optim.Adam(groups, lr=2e-2)
    )
    assert agreement(mapping) == 1.0
    assert mapping.learned is not None and mapping.learned.stability == 1.0
    assert npas.cluster(mapping).banks == mapping.banks


def test_auto_upsamples_no_layer_that_need_not_be() -> None:
    """Appendix C: a group of small layers is not left without what its largest needs."""
    torch.manual_seed(0)
    mapping = npas.search(Layers(), inputs(30), LESSON, budget="30%")
    plan = npas.plan(Layers(), "30%", groups=mapping)
    assert all(layer.k >= 1 for layer in plan.layers)
    apart = npas.plan(Layers(), "30%", groups="own")
    assert any(layer.k == 0 for layer in apart.layers)


def test_frozen_banks_stay_when_the_others_are_clustered_again() -> None:
    mapping = searched()
    frozen = next(iter(mapping.banks))
    again = npas.cluster(mapping.freeze(frozen), 2)
    assert again.banks[frozen] == mapping.banks[frozen] and again.frozen == (frozen,)
    assert len(again.banks) == 3 and set(again.bank_of) == set(mapping.bank_of)
    with pytest.raises(NpasError, match="every bank of the mapping is frozen"):
        npas.cluster(mapping.freeze(*mapping.banks), 2)


def _loss(value: Any) -> Callable[..., Any]:
    return lambda model, batch: value(mean_square(model, batch))


def _nan_at_third() -> Callable[..., Any]:
    calls: list[int] = []

    def loss_fn(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return mean_square(model, batch) * (float("nan") if len(calls) == 3 else 1.0)

    return loss_fn


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"groups": 0}, "groups=0 must be between 1 and"),
        ({"groups": 9}, "between 1 and 4"),
        ({"groups": "some"}, "'auto'"),
        ({"groups": True}, "groups=True"),
        ({"method": "embed"}, "nearest: 'emb'"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 12}, "after 8 of 12 steps"),
        ({"seed": -1}, "seed=-1"),
        ({"templates": 1}, "templates=1"),
        ({"templates": 64}, "at most 32"),
        ({"start": "same"}, "start='same'"),
        ({"budget": "much"}, "budget"),
        ({"optimizer": torch.optim.SGD(Small().parameters(), 0.1)}, "made already"),
        ({"optimizer": 3}, "optimizer=3"),
        ({"optimizer": lambda groups: None}, "made a NoneType"),
        ({"batches": []}, "after 0 of at least 1"),
        ({"batches": 3}, "batches is a int"),
        ({"loss_fn": "mse"}, "loss_fn='mse'"),
        ({"loss_fn": _loss(lambda loss: loss.expand(2))}, r"found \(2,\)"),
        ({"loss_fn": _loss(lambda loss: float(loss.detach()))}, "found float"),
        ({"loss_fn": _loss(lambda loss: loss.detach())}, "without a gradient"),
        ({"loss_fn": _nan_at_third()}, r"nan at step 3; largest gradients .*npas\.search"),
        ({"loss_fn": _loss(lambda loss: loss * float("inf"))}, "inf at step 1; it was the first"),
        ({"target_modules": ["head"]}, "1 layers"),
        ({"model": nn.Linear(3, 3)}, "1 layers"),
        ({"model": Small().to("meta")}, "meta"),
        ({"model": "net"}, "str"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], says: str) -> None:
    arguments = {"model": small(), "batches": Batches(), "loss_fn": mean_square, "groups": 2}
    arguments |= options
    with pytest.raises(NpasError, match=says):
        npas.search(
            arguments.pop("model"), arguments.pop("batches"), arguments.pop("loss_fn"), **arguments
        )


def test_a_model_with_the_name_of_the_bank() -> None:
    model = small()
    model.npas = nn.Identity()
    with pytest.raises(NpasError, match="attribute 'npas'"):
        npas.search(model, Batches(), mean_square, groups=2)


def test_weights_that_are_not_finite_are_named() -> None:
    model = small()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(NpasError, match=r"head\.weight"):
        npas.search(model, Batches(), mean_square, groups=2)


def test_batches_that_are_fewer_when_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "search.pt"
    with pytest.raises(KeyboardInterrupt):
        find(checkpoint=path, callbacks=[_stop_after(5)])
    kept = path.read_bytes()
    with pytest.raises(NpasError, match="ended after 3, but 5 were seen"):
        npas.search(small(), Batches(3), mean_square, groups=2, checkpoint=path)
    assert path.read_bytes() == kept


def test_batches_that_end_early_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "search.pt"
    with pytest.raises(NpasError, match="after 8 of 11 steps"):
        find(checkpoint=path, steps=11)
    seen: list[int] = []
    more = npas.search(
        small(),
        Batches(20),
        mean_square,
        groups=2,
        steps=11,
        checkpoint=path,
        callbacks=[lambda s: seen.append(s.step)],
    )
    assert seen == [9, 10, 11]
    assert more.learned is not None and more.learned.steps == 11


def test_cluster_of_what_did_not_learn() -> None:
    with pytest.raises(NpasError, match="search_model"):
        npas.cluster(small(), 2)
    with pytest.raises(NpasError, match="was not learned"):
        npas.cluster(Mapping({"b": ("x",)}, "by hand"), 2)
    module = npas.search_model(small(), templates=4)
    with pytest.raises(NpasError, match="share=0"):
        npas.cluster(module, share=0)
    bank: Any = module.get_submodule("npas.search")
    with torch.no_grad():
        bank.phi[0] += 1
    with pytest.warns(NpasWarning, match="only 2"):
        assert len(npas.cluster(module, 4).banks) == 2
    with torch.no_grad():
        bank.phi[1, 0] = float("nan")
    with pytest.raises(NpasError, match="not finite"):
        npas.cluster(module, 2)


def test_progress_is_drawn_where_it_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    find(progress=True)
    drawn = capsys.readouterr()
    assert "8/8" in drawn.err and "loss" in drawn.err and not drawn.out
    find()
    quiet = capsys.readouterr()
    assert not quiet.err and not quiet.out
