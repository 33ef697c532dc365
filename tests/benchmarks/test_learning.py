"""The suite of training runs: paired, resumable, and the committed tables follow from the data."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats as scipy_stats

import npas
from benchmarks import stats
from benchmarks.images import augmented, choose
from benchmarks.learning import experiments, report, summary
from benchmarks.learning.__main__ import main
from benchmarks.learning.experiments import EXPERIMENTS, QUICK, quick, select
from benchmarks.learning.networks import NETWORKS
from benchmarks.learning.runs import MixedData, missing, run_missing
from benchmarks.learning.spec import Build, Case, Experiment, Run
from benchmarks.learning.starts import COEFFICIENTS, MASKS, restart
from benchmarks.learning.task import batches, task_of
from benchmarks.learning.train import train
from benchmarks.quality.groups import PATTERNS
from benchmarks.store import append_row, key_of, read_rows
from npas.bank import banks_of
from npas.init import spread

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
TINY = replace(QUICK, n_train=70, n_test=50)


@pytest.fixture(scope="module", autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def two_arms() -> Experiment:
    builds = {"dense": Build(), "single": Build("50%", "single", start="alpha: equal")}
    cases = tuple(Case(arm, build, TINY) for arm, build in builds.items())
    return Experiment("tiny/50%", "Tiny", "A note.", cases, "dense", seeds=2)


def test_a_quick_run_of_every_kind_and_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "rows.jsonl"
    common = ["--quick", "--experiments", "mapping/11%", "lr_scaling/sgd-11%", "masks/5%"]
    assert main(["run", *common, "--seeds", "1", "--rows", str(kept)]) == 0
    rows = list(read_rows(kept).values())
    assert len(rows) == 9 + 3 + 5
    for row in rows:
        assert row["key"] == key_of({k: row[k] for k in ("build", "recipe", "seed")})
        assert 0 <= row["accuracy"] <= 1 and len(row["losses"]) == 1
        share = {"11%": 0.11, "5%": 0.05, None: 1.0}[row["build"]["budget"]]
        assert row["n_params"] <= share * row["n_dense"]
        searched = row["build"]["groups"].startswith("search-")
        assert (row["search_steps"] > 0, row["search_cpu_s"] > 0) == (searched, searched)
    assert main(["report", *common, "--seeds", "1", "--rows", str(kept)]) == 0
    printed = capsys.readouterr().out
    assert "learned, Emb" in printed and "power 0.5" in printed and "lacks" not in printed
    assert main(["list", *common, "--rows", str(kept)]) == 0
    assert "mapping/11%: Who shares with whom, at 11%; 18 runs, 9 to do" in capsys.readouterr().out


def test_the_same_run_gives_the_same_row() -> None:
    run = Run(Build("30%", "search-emb", 4, "emb"), TINY, 3)
    one, other = train(run, None), train(run, None)
    for key in ("accuracy", "losses", "banks", "n_params"):
        assert one[key] == other[key]
    assert train(replace(run, seed=4), None)["losses"] != one["losses"]


def test_runs_of_a_seed_start_from_the_same_dense_network(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def remember(model: torch.nn.Module, *rest: Any) -> Any:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        raise InterruptedError

    monkeypatch.setattr("benchmarks.learning.train.build", remember)
    for build, seed in ((Build(), 0), (Build("11%", "single"), 0), (Build(), 1)):
        with pytest.raises(InterruptedError):
            train(Run(build, TINY, seed), None)
    first, same, other = (state["stem.weight"] for state in seen)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    kept, said = tmp_path / "rows.jsonl", []
    run_missing([two_arms()], kept, None, 1, said.append)
    whole = kept.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 4 and said[0].startswith("4 runs to do")
    kept.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert len(read_rows(kept)) == 2 and len(missing([two_arms()], read_rows(kept))) == 2
    run_missing([two_arms()], kept, None, 1, said.append)
    again = [json.loads(line) for line in kept.read_text().splitlines()]
    for one, other in zip(again, map(json.loads, lines), strict=True):
        assert (one["key"], one["accuracy"], one["losses"]) == (
            other["key"],
            other["accuracy"],
            other["losses"],
        )
    run_missing([two_arms()], kept, None, 1, said.append)
    assert said[-1].startswith("0 runs to do, 4 rows")


def test_processes_give_the_rows_of_one(tmp_path: Path) -> None:
    experiment = replace(two_arms(), cases=two_arms().cases[:1], seeds=1)
    rows: list[dict[str, Any]] = []
    for jobs in (1, 2):
        run_missing([experiment], tmp_path / str(jobs), None, jobs, lambda _: None)
        rows.append({k: r["losses"] for k, r in read_rows(tmp_path / str(jobs)).items()})
    assert rows[0] == rows[1] and len(rows[0]) == 1


def test_rows_on_other_data_are_not_mixed(tmp_path: Path) -> None:
    run = two_arms().runs[0]
    append_row(tmp_path / "rows", {"key": "x", **run.spec, "data": "other digits"})
    with pytest.raises(MixedData, match="holds results on other digits"):
        run_missing([two_arms()], tmp_path / "rows", None, 1, lambda _: None)


def test_mistakes_end_with_what_to_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = ["--rows", str(tmp_path / "rows")]
    assert main(["run", "--experiments", "mapping", *rows]) == 2
    assert "--data takes CIFAR-10 as a folder or zip" in capsys.readouterr().err
    assert main(["list", "--experiments", "maping"]) == 2
    assert "there is no experiment 'maping'; there are mapping/100%" in capsys.readouterr().err


def test_names_of_experiments_and_their_runs() -> None:
    names = [e.name for e in EXPERIMENTS]
    assert len(set(names)) == len(names)
    assert [e.name for e in select(["mapping"])] == [
        *("mapping/100%", "mapping/random", "mapping/11%")
    ]
    assert {e.name for e in EXPERIMENTS} - {e.name for e in select([])} == {"pilot"}
    for experiment in EXPERIMENTS:
        assert experiment.baseline in experiment.arms
        assert len({run.key for run in experiment.runs}) == len(experiment.runs)
        assert list(quick(experiment).arms) == list(experiment.arms)


def test_manual_groups_are_the_papers_fourteen() -> None:
    with torch.device("meta"):
        model = NETWORKS["wrn-28-1"]()
    plan = npas.plan(model, "100%", groups=dict(PATTERNS["manual"]))
    shared = [bank for bank in plan.banks if len(bank.layers) > 1]
    assert len(plan.banks) == 14 and [len(bank.layers) for bank in shared] == [6, 6, 6]
    for bank in shared:
        assert len({plan.layer_by_name[name].shape for name in bank.layers}) == 1


def test_batches_follow_from_the_seed() -> None:
    task = task_of(TINY, None)
    recipe = replace(TINY, augment=True)

    def epoch(seed: int, number: int) -> list[torch.Tensor]:
        return [x for x, _ in batches(task, recipe, seed, number)]

    first = epoch(0, 0)
    assert len(first) == 2 and all(map(torch.equal, first, epoch(0, 0)))
    assert not torch.equal(first[0], epoch(1, 0)[0]) and not torch.equal(first[0], epoch(0, 1)[0])
    plain = torch.cat([y for _, y in batches(task, TINY, 0, 0)])
    assert len(plain) == 64 and bool((plain.bincount() <= task.train_y.bincount()).all())


def test_images_are_shifted_and_flipped_and_nothing_else() -> None:
    x = torch.arange(2 * 64.0).view(1, 2, 8, 8).repeat(200, 1, 1, 1) + 1
    seen: set[tuple[int, int, bool]] = set()
    for image in augmented(x, torch.Generator().manual_seed(0)):
        for flip in (False, True):
            plain = image.flip(2) if flip else image
            rows, columns = plain[0].nonzero().unbind(1)
            first = plain[0][rows[0], columns[0]].item() - 1
            top, left = first // 8 - rows[0].item(), first % 8 - columns[0].item()
            padded = torch.nn.functional.pad(x[0], (1, 1, 1, 1))
            window = padded[:, int(1 + top) : int(9 + top), int(1 + left) : int(9 + left)]
            if torch.equal(plain, window):
                seen.add((int(top), int(left), flip))
                break
        else:
            raise AssertionError("an image that is no shift of the original")
    assert len(seen) == 2 * 9


def test_chosen_images_are_as_many_of_each_class() -> None:
    classes = torch.arange(10).repeat(30)
    chosen = choose(classes, 50)
    assert classes[chosen].bincount().tolist() == [5] * 10 and len(chosen.unique()) == 50
    assert torch.equal(chosen, choose(classes, 50))
    with pytest.raises(ValueError, match="40 images of class 0 are asked for, there are 30"):
        choose(classes, 400)


@pytest.mark.parametrize("start", [*MASKS, *COEFFICIENTS])
def test_starts_keep_the_scale(start: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS["wrn-16-1"]()
    budget = "5%" if start in MASKS else "50%"
    ssn = npas.compile(model, budget, groups="single")
    before = {n: p.detach().clone() for n, p in ssn.named_parameters()}
    restart(ssn, start, 0)
    moved = {n.rpartition(".")[2] for n, p in ssn.named_parameters() if not p.equal(before[n])}
    assert moved == ({"mask"} if start in MASKS else {"alpha"})
    originals = dict(model.named_parameters())
    (bank,) = banks_of(ssn).values()
    for name in bank.layer_names():
        # A sum of two or four templates of 128 elements has its own chance.
        chance = 0.3 if originals[name].numel() < 1000 else 0.06
        made = spread(bank.generate(name))
        assert made == pytest.approx(spread(originals[name]), rel=chance), name


def test_spread_lines_are_farther_apart_than_others() -> None:
    def nearest(name: str) -> float:
        lines = COEFFICIENTS[f"alpha: {name}"](12, 4, torch.Generator().manual_seed(0))
        assert torch.allclose(lines.norm(dim=1), torch.ones(12))
        return float((lines @ lines.T).abs().triu(1).max())

    assert nearest("spread") < 0.6 < nearest("normal") < nearest("equal") + 1e-6
    basis = COEFFICIENTS["alpha: a basis for each K layers"](6, 4, torch.Generator())
    assert torch.allclose(basis[:4] @ basis[:4].T, torch.eye(4), atol=1e-6)


def test_paired_differences_are_scipys() -> None:
    one, other = {0: 0.5, 1: 0.6, 2: 0.8, 4: 0.1}, {0: 0.4, 1: 0.65, 2: 0.6, 3: 0.2}
    found = stats.paired_difference(one, other)
    assert found is not None and found.n == 3
    test = scipy_stats.ttest_rel([0.5, 0.6, 0.8], [0.4, 0.65, 0.6])
    low, high = test.confidence_interval(0.95)
    assert found.mean - found.half == pytest.approx(low)
    assert found.mean + found.half == pytest.approx(high)
    assert found.p == pytest.approx(test.pvalue) and not found.resolved
    sure = stats.paired_difference({0: 0.51, 1: 0.62, 2: 0.7}, {0: 0.4, 1: 0.5, 2: 0.6})
    assert sure is not None and sure.resolved
    assert stats.paired_difference({0: 1.0}, {1: 1.0}) is None
    lone = stats.paired_difference({0: 1.0}, {0: 0.5})
    assert lone is not None and not lone.resolved


def test_holm_is_the_step_down_of_bonferroni() -> None:
    adjusted = stats.holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert adjusted == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


def test_an_arm_of_several_rates_stands_for_the_best() -> None:
    recipes = {lr: replace(TINY, lr=lr) for lr in (0.1, 0.3)}
    cases = tuple(Case("arm", Build(), recipe) for recipe in recipes.values())
    experiment = Experiment("x/y", "X", "Note.", cases, "arm", seeds=2)
    rows: dict[str, Any] = {}
    for run in experiment.runs:
        accuracy = {0.1: 0.5, 0.3: 0.6}[run.recipe.lr] + 0.01 * run.seed
        rows[run.key] = row_of(run, accuracy)
    made = summary.summarise([experiment], rows, "command")
    (row,) = report.sections(made)["x/y"].rows
    assert (row["lr"], row["mean"], row["seeds"]) == (0.3, pytest.approx(0.605), 2)


def row_of(run: Run, accuracy: float, banks: dict[str, list[str]] | None = None) -> dict[str, Any]:
    environment = dict.fromkeys(("data", "python", "torch", "machine", "threads", "revision"), "x")
    return {
        "key": run.key,
        **run.spec,
        **environment,
        "accuracy": accuracy,
        "losses": [1.0],
        "n_params": 10,
        "n_banks": 2,
        "steps": 1,
        "search_steps": 0,
        "train_cpu_s": 1.0,
        "search_cpu_s": 0.0,
        "banks": banks,
    }


def test_layers_that_are_larger_than_their_bank_are_counted() -> None:
    case = Case("arm", Build("100%", "single"), TINY)
    with torch.device("meta"):
        names = [w.name for w in npas.plan(NETWORKS[TINY.network](), "100%").layers]
    assert summary.upsampled(case, [{"b": names}]) == 0
    small = replace(case, build=Build("2%", "single"))
    rest = {"a": names[:5], "b": names[5:]}
    one, other = (summary.upsampled(small, [banks]) for banks in ({"b": names}, rest))
    assert one is not None and other is not None and 0 < one < other
    assert summary.upsampled(small, [{"b": names}, rest]) == (one + other) / 2
    assert summary.upsampled(case, [None]) is None


def test_agreement_of_mappings() -> None:
    one = {"a": ["x", "y"], "b": ["z", "w"]}
    assert summary.agreement([one, {"p": ["z", "w"], "q": ["y", "x"]}]) == 1
    found = summary.agreement([one, {"p": ["x", "z"], "q": ["y", "w"]}])
    assert found is not None and found < 0
    assert summary.agreement([one]) is None


def test_a_page_without_a_mark_is_refused() -> None:
    made = summary.summarise([two_arms()], {r.key: row_of(r, 0.5) for r in two_arms().runs}, "go")
    page = "<!-- made -->\n<!-- end -->\ntext\n<!-- tiny/50% -->\nold\n<!-- end -->\nmore\n"
    filled = report.fill(page, made)
    assert "Made by `go`" in filled and "| dense |" in filled and "old" not in filled
    assert report.fill(filled, made) == filled and filled.endswith("more\n")
    with pytest.raises(ValueError, match="no <!-- tiny/50% -->"):
        report.fill("<!-- made -->\n<!-- end -->\n", made)


def test_the_committed_page_follows_from_the_committed_summary() -> None:
    made = json.loads((ROOT / summary.COMMITTED).read_text(encoding="utf-8"))
    page = (ROOT / report.PAGE).read_text(encoding="utf-8")
    assert report.fill(page, made) == page
    known = {e.name: e for e in experiments.EXPERIMENTS}
    for name, found in made["experiments"].items():
        cases = [json.loads(json.dumps(Run(c.build, c.recipe, 0).spec)) for c in known[name].cases]
        for case in (case for arm in found["arms"].values() for case in arm):
            spec = {"build": case["build"], "recipe": case["recipe"], "seed": 0}
            assert spec in cases, f"{name} is not what the summary was made of"
            assert case["search_cpu_s"] <= 0.15 * case["train_cpu_s"]
