"""Runs of the quality suite: what is due, what is kept, and that a seed decides the outcome."""

import errno
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import npas
from benchmarks import store
from benchmarks.data import DataError
from benchmarks.quality import builds, runs, train
from benchmarks.quality.builds import Job, build, in_params
from benchmarks.quality.cells import family
from benchmarks.quality.experiments import EXPERIMENTS, select
from benchmarks.quality.experiments.settings import representative
from benchmarks.quality.networks import NETWORKS, network
from benchmarks.quality.quick import IMAGES, quick
from benchmarks.quality.runs import MixedRows, refuse_mixed, run_missing
from benchmarks.quality.spec import (
    Build,
    Case,
    Experiment,
    Run,
    Tuning,
    missing,
    npas_build,
    options,
)
from benchmarks.quality.tasks import TASKS, task
from benchmarks.sources import Sources

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module", autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


NOWHERE = Sources(())
TINY = replace(IMAGES, lr=0.1)
TUNING = Tuning(Build(), IMAGES, (0.1, 0.3), seeds=(1000, 1001))
EXPERIMENT = Experiment(
    "family/part",
    "A title",
    "A note.",
    (
        Case("dense", Build(), IMAGES, TUNING),
        Case("npas", npas_build("90%"), TINY),
    ),
    "dense",
    seeds=2,
)


def fake_row(run: Run, score: float = 0.5, code: str = "here") -> dict[str, Any]:
    return {
        "key": run.key,
        **run.spec,
        "score": score,
        "diverged": False,
        "train_s": 1.0,
        "search_s": 0.0,
        "code": code,
        "revision": f"r-{code}",
    }


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Let runs take no time; returns those that were done."""
    done: list[Run] = []

    def trained(run: Run, sources: Sources) -> dict[str, Any]:
        done.append(run)
        return fake_row(run, score=run.recipe.lr or 0.0)

    monkeypatch.setattr(runs, "train", trained)
    monkeypatch.setattr(runs, "code", lambda name: "here")
    return done


def silent(text: str) -> None:
    del text


def test_a_key_depends_on_what_the_run_is_and_not_on_defaults() -> None:
    run = Run(npas_build("10%", groups="single"), TINY, 0, "test")
    assert run.spec["build"] == {"method": "npas", "budget": "10%", "how": {"groups": "single"}}
    assert "weight_decay" not in run.spec["recipe"]
    assert run.key == Run(npas_build("10%", groups="single"), TINY, 0, "test").key
    others = (
        replace(run, seed=1),
        replace(run, part="validation"),
        replace(run, build=npas_build("11%", groups="single")),
        replace(run, recipe=replace(TINY, lr=0.2)),
        replace(run, recipe=replace(TINY, how=(("sharing_power", 1.0),))),
    )
    assert len({run.key, *(other.key for other in others)}) == 6


def test_the_rate_of_a_case_is_chosen_on_validation_data_alone() -> None:
    rows: dict[str, Any] = {}
    assert EXPERIMENT.cases[0].run(0, rows) is None
    scores = {0.1: (0.6, 0.4), 0.3: (0.7, 0.5)}
    for rate, found in scores.items():
        for run, score in zip(TUNING.runs(rate), found, strict=True):
            assert run.part == "validation" and run.seed >= 1000
            rows[run.key] = fake_row(run, score)
    chosen = EXPERIMENT.cases[0].run(0, rows)
    assert chosen is not None
    assert (chosen.recipe.lr, chosen.part, chosen.seed) == (0.3, "test", 0)
    # However well the other rate does on the test set.
    better = replace(chosen, recipe=replace(chosen.recipe, lr=0.1))
    rows[better.key] = fake_row(better, 0.99)
    assert TUNING.chosen(rows) == 0.3


def test_of_equal_rates_the_lower_one_is_chosen() -> None:
    rows = {run.key: fake_row(run, 0.5) for run in TUNING.known_runs({})}
    assert TUNING.chosen(rows) == 0.1


def test_a_grid_grows_while_its_best_rate_is_at_an_edge() -> None:
    wide = replace(TUNING, wider=(0.03, *TUNING.rates, 1.0, 3.0))
    rows: dict[str, Any] = {}

    def score(rate: float, value: float) -> None:
        rows.update((run.key, fake_row(run, value)) for run in wide.runs(rate))

    score(0.1, 0.5)
    score(0.3, 0.6)
    assert wide.grid(rows) == (0.1, 0.3, 1.0)
    assert wide.chosen(rows) is None  # before the rate beyond the edge is judged
    score(1.0, 0.7)
    assert wide.grid(rows) == (0.1, 0.3, 1.0, 3.0)
    score(3.0, 0.2)
    assert wide.grid(rows) == (0.1, 0.3, 1.0, 3.0) and wide.chosen(rows) == 1.0
    score(3.0, 0.8)  # nothing is allowed beyond
    assert wide.chosen(rows) == 3.0
    score(0.1, 0.9)
    assert wide.grid(rows) == (0.03, 0.1, 0.3) and wide.chosen(rows) is None
    score(0.03, 0.1)
    assert wide.grid(rows) == (0.03, 0.1, 0.3) and wide.chosen(rows) == 0.1


def test_runs_that_tune_come_first_and_then_a_seed_of_every_case() -> None:
    rows: dict[str, Any] = {}
    due = missing([EXPERIMENT], rows)
    assert [run.part for run in due] == ["validation"] * 4 + ["test"] * 2
    assert EXPERIMENT.n_runs({}) == 8
    rows |= {run.key: fake_row(run) for run in TUNING.known_runs({})}
    due = missing([EXPERIMENT], rows)
    assert [(run.seed, run.build.method) for run in due] == [
        (0, "dense"),
        (0, "npas"),
        (1, "dense"),
        (1, "npas"),
    ]


def test_the_same_run_in_two_experiments_is_done_once(fake: list[Run], tmp_path: Path) -> None:
    other = replace(EXPERIMENT, name="family/other", cases=EXPERIMENT.cases[::-1])
    run_missing([EXPERIMENT, other], {}, tmp_path / "rows", NOWHERE, 1, silent)
    assert len(fake) == 8 == len({run.key for run in fake})


def test_a_stopped_run_goes_on_where_it_was(fake: list[Run], tmp_path: Path) -> None:
    kept = tmp_path / "rows"

    def stop(text: str) -> None:
        if "3 done" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_missing([EXPERIMENT], {}, kept, NOWHERE, 1, stop)
    assert len(store.read_rows(kept)) == 3
    with kept.open("a") as file:
        file.write('{"key": "half')  # as a kill in the middle of a write leaves it
    run_missing([EXPERIMENT], store.read_rows(kept), kept, NOWHERE, 1, silent)
    assert len(fake) == 8 == len({run.key for run in fake}) == len(store.read_rows(kept))


def test_a_full_disk_loses_no_row_that_is_there(
    fake: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "rows"
    write, left = os.write, [2]

    def full(descriptor: int, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            write(descriptor, data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        run_missing([EXPERIMENT], {}, kept, NOWHERE, 1, silent)
    monkeypatch.setattr(os, "write", write)
    assert len(store.read_rows(kept)) == 2
    run_missing([EXPERIMENT], store.read_rows(kept), kept, NOWHERE, 1, silent)
    assert len(store.read_rows(kept)) == 8


def test_rows_of_other_code_are_refused_unless_asked_for(fake: list[Run], tmp_path: Path) -> None:
    kept = tmp_path / "rows"
    old = Run(npas_build("90%"), TINY, 0, "test")
    rows = {old.key: fake_row(old, code="old")}
    with pytest.raises(
        MixedRows,
        match=r"family/part: .* old \(revision r-old\).*here.*--fresh",
    ):
        run_missing([EXPERIMENT], rows, kept, NOWHERE, 1, silent)
    assert not fake and not kept.exists()
    run_missing([EXPERIMENT], rows, kept, NOWHERE, 1, silent, mix=True)
    assert len(fake) == 7
    with pytest.raises(MixedRows):
        refuse_mixed([EXPERIMENT], rows)


def test_tuning_may_be_of_other_code(fake: list[Run], tmp_path: Path) -> None:
    rows = {run.key: fake_row(run, code="old") for run in TUNING.known_runs({})}
    run_missing([EXPERIMENT], rows, tmp_path / "rows", NOWHERE, 1, silent)
    assert len(fake) == 4


def test_forgotten_rows_are_run_again(tmp_path: Path) -> None:
    kept = tmp_path / "rows"
    for run in TUNING.known_runs({}):
        store.append_row(kept, fake_row(run))
    store.forget(kept, {TUNING.known_runs({})[0].key})
    assert set(store.read_rows(kept)) == {run.key for run in TUNING.known_runs({})[1:]}
    store.forget(tmp_path / "absent", {"a"})
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("method", ["dense", "npas", "reduced_width", "hypernetwork"])
def test_a_seed_decides_the_outcome(method: str) -> None:
    how = Build(method, None if method == "dense" else "90%")
    first, again, other = (train.train(Run(how, TINY, seed, "test"), NOWHERE) for seed in (3, 3, 4))
    assert first["losses"] == again["losses"] and first["score"] == again["score"]
    assert first["losses"] != other["losses"]
    assert first["n_params"] <= first["n_dense"]
    assert json.loads(json.dumps(first)) == first | {
        "banks": json.loads(json.dumps(first["banks"]))
    }


def test_runs_of_a_seed_start_at_the_same_weights_and_see_the_same_samples() -> None:
    data = task(TINY.task, NOWHERE)
    one, other = ([x for x, _ in data.batches(5, 1, 32)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)) and len(one) == 5
    job = Job(network(TINY.network), Build(), TINY, data, 5)
    own = npas_build("100%", groups="own")
    dense = build(job).module
    compiled = build(replace(job, build=own)).module
    x = one[0]
    assert torch.equal(dense.eval()(x), compiled.eval()(x))


def test_a_run_that_diverges_is_recorded() -> None:
    row = train.train(Run(Build(), replace(TINY, lr=1e12, epochs=2), 0, "test"), NOWHERE)
    assert row["diverged"] and row["score"] == 0.0
    assert "diverged" in runs.describe(row)


def test_a_search_that_diverges_is_tried_at_lower_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def searched(*arguments: Any) -> npas.Mapping:
        tried.append(arguments[-1])
        if len(tried) < 3:
            raise npas.DivergedError("the loss is nan")
        names = [name for name, p in arguments[0].named_parameters() if p.dim() > 1]
        return npas.Mapping({"one": tuple(names)})

    monkeypatch.setattr(builds, "_searched", searched)
    how = npas_build("90%", groups="search-emb", n_banks=2)
    row = train.train(Run(how, replace(TINY, lr=0.09), 0, "test"), NOWHERE)
    assert tried == pytest.approx([0.09, 0.03, 0.01])
    assert not row["diverged"] and row["n_banks"] == 1


def test_a_search_that_diverges_is_a_run_that_does() -> None:
    how = npas_build("90%", groups="search-emb", n_banks=2)
    row = train.train(Run(how, replace(TINY, lr=1e12, epochs=20), 0, "test"), NOWHERE)
    assert row["diverged"] and row["score"] == 0.0 and row["losses"] == []
    assert 0 < row["n_params"] <= 0.9 * row["n_dense"] + 1
    whole = train.train(Run(Build(), TINY, 0, "test"), NOWHERE)
    assert row.keys() == whole.keys()


def test_coefficients_are_held_for_a_share_of_the_steps() -> None:
    data = task(TINY.task, NOWHERE)

    def moved(share: float) -> list[bool]:
        recipe = replace(TINY, how=options(hold_coefficients=share))
        module = build(Job(network(TINY.network), npas_build("90%"), recipe, data, 0)).module
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        train.fit(module, recipe, data, 0)
        combining = [name for name in before if name.endswith(".alpha")]
        others = before.keys() - set(combining)
        after = dict(module.named_parameters())
        assert combining and any(not torch.equal(after[name], before[name]) for name in others)
        return [not torch.equal(after[name], before[name]) for name in combining]

    assert all(moved(0.0)) and all(moved(0.5)) and not any(moved(1.0))


def test_recalibrated_norms_have_the_statistics_of_the_final_weights() -> None:
    data = task("digits", NOWHERE)
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10)
    )
    norm = module[0]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    norm.running_mean = torch.full((1,), 100.0)
    train.recalibrate(module, TINY, data, 0)
    seen = torch.cat([x for x, _ in data.batches(0, TINY.epochs, TINY.batch)])
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.running_mean.item() == pytest.approx(seen.mean().item(), abs=1e-5)
    assert norm.running_var.item() == pytest.approx(seen.var().item(), rel=0.02)


def test_the_digest_of_the_sources_has_the_files_of_every_task() -> None:
    files = {p for pattern in train.SOURCES for p in train.ROOT.glob(pattern)}
    for name in TASKS:
        assert Path(inspect.getfile(type(TASKS[name]))) in files, name
    for module in ("data", "text", "emoji", "images", "quality.pair_networks"):
        assert train.ROOT / f"benchmarks/{module.replace('.', '/')}.py" in files
    plain, pruned = (replace(TINY, how=how) for how in ((), (("prune", "hrank"),)))
    assert train.code(plain) == train.code(TINY) != train.code(pruned)


def test_a_part_of_the_data_is_scored_and_no_other() -> None:
    data = task("digits", NOWHERE)
    parts = {name: len(part.x) for name, part in data.parts.items()}  # type: ignore[attr-defined]
    assert parts == {"train": 160, "validation": 100, "test": 359}

    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    for part in ("validation", "test"):
        expected = float((data.parts[part].y == 3).float().mean())  # type: ignore[attr-defined]
        assert data.score(Constant(), part) == pytest.approx(expected)


def test_budgets_in_parameters() -> None:
    net = NETWORKS["wrn-16-1"]
    assert in_params(net, "100%") == 175_066
    assert in_params(net, "10%") == 17_506
    # 64 x 64 x 3 x 3 and what is not allocated: norms and the classifier's bias.
    assert in_params(net, "largest") >= 36_864 + 906


def test_ranges_of_budgets_that_are_tuned_together() -> None:
    found = [representative(b) for b in ("1.4%", "7%", "largest", "25%", "60%", "100%", "4x")]
    assert found == ["2%", "10%", "largest", "10%", "50%", "50%", "4x"]


def test_experiments_are_well_formed() -> None:
    names = [e.name for e in EXPERIMENTS]
    assert len(set(names)) == len(names)
    for e in EXPERIMENTS:
        arms = [case.arm for case in e.cases]
        assert len(set(arms)) == len(arms), e.name
        assert e.baseline in arms and (e.also is None or e.also in arms), e.name
        assert e.seeds >= 5, e.name
        for case in e.cases:
            assert case.recipe.task in TASKS and case.recipe.lr is None, e.name
            network(case.recipe.network)
            assert case.tuning is not None
            assert not set(case.tuning.seeds) & set(e.all_seeds)
        # Equal effort: one grid for all that are compared.
        assert len({case.tuning.rates for case in e.cases if case.tuning}) == 1, e.name


def test_confirmations_use_seeds_of_their_own() -> None:
    chosen = {s for e in EXPERIMENTS if family(e.name) != "recipe" for s in e.all_seeds}
    fresh = {s for e in EXPERIMENTS if family(e.name) == "recipe" for s in e.all_seeds}
    assert fresh and not chosen & fresh


def test_select_names_what_is_near() -> None:
    assert [e.name for e in select(["hypernetworks"])] == ["hypernetworks/wrn-40-1"]
    assert select([]) == list(EXPERIMENTS)
    with pytest.raises(ValueError, match=r"no experiment 'hypernetwork'.*hypernetworks"):
        select(["hypernetwork"])


def test_quick_experiments_take_one_tuning_and_two_seeds() -> None:
    for e in EXPERIMENTS:
        tiny = quick(e)
        assert tiny.name == e.name and [c.arm for c in tiny.cases] == [c.arm for c in e.cases]
        assert tiny.n_runs({}) <= 2 * len(e.cases) + 2


def test_missing_data_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="CIFAR-10 is not at"):
        task("cifar10", Sources((tmp_path,)))
    with pytest.raises(DataError, match="no such file or folder"):
        Sources.of([tmp_path / "absent"])
    with pytest.raises(KeyError, match="digits"):
        task("digit", NOWHERE)


def test_sources_find_names_in_folders_and_files(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.touch()
    assert Sources((tmp_path,)).find("b.zip", "a.zip") == archive
    assert Sources((archive,)).find("a.zip") == archive
    assert Sources((tmp_path,)).find("b.zip") is None


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, os, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from benchmarks.quality.runs import _end_with_parent\n"
        "def work():\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    with ProcessPoolExecutor(1, context, _end_with_parent) as pool:\n"
        "        pool.submit(work).result()\n"
    )
    command = [sys.executable, str(script)]
    path = {"PYTHONPATH": str(Path(train.ROOT))}
    pipe, none = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdout=pipe, stderr=none, env=os.environ | path) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while _runs(worker):
        assert time.monotonic() < deadline, "the worker goes on without its parent"
        time.sleep(0.1)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
