"""The command line: a real process for the contract, ``main`` in process for the breadth."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import npas
from npas import cli

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parent.parent

NETS = '''
"""Models that the command line is pointed at."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Config:
    width: int = 16


def mlp(width=16, depth=3, config=None):
    return nn.Sequential(nn.Linear(8, width), *(nn.Linear(width, width) for _ in range(depth)))


class Keyed(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.out = nn.Linear(8, 8)

    def forward(self, ids, mask=None):
        x = self.out(self.embed(ids))
        return x if mask is None else x * mask


class ByValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x


def searched(n=6, loss="mean"):
    torch.manual_seed(1)
    batches = [torch.randn(4, 8) for _ in range(n)]
    return mlp(), batches, lambda model, x: getattr(model(x).square(), loss)()


def tuned():
    return (*searched(), lambda groups: torch.optim.SGD(groups, lr=0.1))


def raises():
    raise RuntimeError("no such checkpoint")


def leaves():
    sys.exit(0)


def number():
    return 3


def no_weights():
    return nn.ReLU()


def lazy():
    return nn.LazyLinear(4)


def complains():
    import warnings
    warnings.warn("an old argument")
    print("building")
    return mlp()


constant = 5
'''


class Result:
    """What a command returned and wrote."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err + out, err
        assert "Traceback" not in out

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON value and nothing else."""
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """A working directory with a module of models."""
    (tmp_path / "cli_nets.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "broken_nets.py").write_text("def mlp(:\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def process(where: Path) -> Run:
    """Run ``python -m npas.cli`` as a process of its own."""

    def run(*arguments: str, **environment: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "npas.cli", *arguments],
            cwd=where,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def inside(
    where: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Call ``npas.cli.main`` here, in the working directory; a traceback is a test's failure."""
    monkeypatch.chdir(where)
    monkeypatch.syspath_prepend(str(where))
    for name in ("cli_nets", "broken_nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        try:
            code = cli.main(arguments)
        except SystemExit as error:
            assert error.code == 2, "only argparse may leave like this"
            code = 2
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    yield run
    for name in ("cli_nets", "broken_nets"):
        sys.modules.pop(name, None)


@pytest.fixture
def saved(where: Path) -> Path:
    """A plan of ``cli_nets:mlp`` in a file."""
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 16), *(nn.Linear(16, 16) for _ in range(3)))
    npas.plan(model, "50%", groups="single").save(where / "plan.json")
    return where / "plan.json"


# As a process: each command's contract, and each exit code.


def test_process_plan_on_an_ascii_terminal(process: Run, where: Path) -> None:
    """Tables are for people, so not on a standard output that is no terminal."""
    done = process(
        "plan", "cli_nets:mlp", "--budget", "50%", "--out", "plan.json", PYTHONIOENCODING="ascii"
    )
    assert done.code == 0, done
    assert done.out == ""
    assert "0.weight" in done.err and "budget 50%: 480 of 480 parameters" in done.err
    assert npas.Plan.load(where / "plan.json").n_params == 480


def test_process_plan_json_of_a_model_that_prints(process: Run, where: Path) -> None:
    command = ("plan", "cli_nets:complains", "--budget", "50%", "--json", "--out", "plan.json")
    done = process(*command)
    assert done.code == 0, done
    assert done.json["n_params"] == 480
    assert "building" in done.err
    assert (where / "plan.json").read_text(encoding="utf-8") == done.out
    assert npas.Plan.from_json(done.out).budget == "50%"


def test_process_explain_diff_and_check(process: Run, saved: Path) -> None:
    plan = npas.Plan.load(saved)
    explained = process("explain", "plan.json", "1.weight", "--json")
    assert explained.code == 0, explained
    assert [row["name"] for row in explained.json["layers"]] == ["1.weight"]
    assert explained.err == ""
    other = saved.with_name("other.json")
    other.write_text(plan.to_json().replace('"seed": 0', '"seed": 7'), encoding="utf-8")
    differs = process("diff", "plan.json", "other.json", "--json")
    assert differs.code == 1, differs
    assert differs.json["changes"] == [{"what": "plan", "field": "seed", "before": 0, "after": 7}]
    checked = process("check", "plan.json", "cli_nets:mlp", "--json")
    assert checked.code == 0, checked
    assert checked.json == {"valid": True, "n_params": plan.n_params}


def test_process_usage(process: Run) -> None:
    done = process("plan", "cli_nets:mlp")
    assert done.code == 2, done
    assert "--budget" in done.err and done.out == ""


def test_process_budget(process: Run) -> None:
    done = process("plan", "cli_nets:mlp", "--budget", "20", "--groups", "single", "--json")
    assert done.code == 3, done
    assert done.out == ""
    assert "the smallest usable one is" in done.err


def test_process_invalid_plan(process: Run, saved: Path) -> None:
    saved.write_text(saved.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    done = process("check", "plan.json", "--json")
    assert done.code == 4, done
    assert done.out == "" and "not JSON" in done.err


def test_process_model(process: Run) -> None:
    done = process("plan", "cli_nets:absent", "--budget", "50%", "--json")
    assert done.code == 5, done
    assert done.out == "" and "no callable 'absent'" in done.err


def test_process_the_reader_goes_away(where: Path) -> None:
    """``npas plan ... --json | head -1``."""
    pipe = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m npas.cli plan cli_nets:mlp --budget 50% --kwargs "
            "'{\"depth\": 400}' --groups single --json | head -c 1",
        ],
        cwd=where,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert pipe.stdout == "{"
    assert "Traceback" not in pipe.stderr and "Exception ignored" not in pipe.stderr


# In process: everything else.


@pytest.mark.parametrize(
    "arguments",
    [
        ["--budget", "0.5"],
        ["--budget", "4x"],
        ["--budget", "1kB"],
        ["--budget", "largest"],
        ["--budget", "50%", "--groups", "by_shape"],
        ["--budget", "50%", "--groups", "random", "--n-banks", "2", "--seed", "3"],
        ["--budget", "50%", "--groups", '{"0": "first", "*": "rest"}'],
        ["--budget", "50%", "--k", "2", "--downsample", "emb", "--upsample", "inter"],
        ["--budget", "50%", "--input", "float32:2x8"],
        ["--budget", "70%", "--target-modules", "1", "2"],
        ["--budget", "70%", "--ignored-modules", "0"],
        ["--budget", "50%", "--kwargs", '{"width": 32, "depth": 2}'],
    ],
)
def test_plan_is_what_the_api_plans(inside: Run, arguments: list[str]) -> None:
    done = inside("plan", "cli_nets:mlp", *arguments, "--json")
    assert done.code == 0, done
    plan = npas.Plan.from_json(done.out)
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    assert plan.budget == options["--budget"]
    assert plan.n_params <= plan.budget_params
    assert (plan.n_macs is not None) == ("--input" in arguments)


def test_count(inside: Run) -> None:
    arguments = ["count", "cli_nets:mlp", "--budget", "50%", "--input", "float32:2x8"]
    done = inside(*arguments, "--batch", "1,8", "--json")
    assert done.code == 0, done
    found = json.loads(done.out)
    assert sum(found["params"].values()) == found["n_params"] <= found["budget_params"]
    for row in found["rows"]:
        assert row["total_macs"] == found["macs"] + row["generation_macs"]
        assert row["overhead"] == pytest.approx(row["generation_macs"] / found["macs"], abs=1e-4)
    made = {(row["mode"], row["batch"]): row["generation_macs"] for row in found["rows"]}
    assert made["train", 1] == 8 * made["train", 8] > 0 == made["eval", 1]
    table = inside(*arguments).err
    assert f"{found['macs']:,}" in table and f"{found['n_params']:,}" in table
    assert "--input" in inside(*arguments[:4]).err


@pytest.mark.parametrize("batch", ["0", "two", "1,", "1,-2"])
def test_count_refuses_batches(inside: Run, batch: str) -> None:
    done = inside("count", "cli_nets:mlp", "--budget", "50%", "--batch", batch)
    assert done.code == 2 and "--batch" in done.err and done.out == ""


def test_a_file_of_models(inside: Run) -> None:
    """With a dataclass in it, which looks its own module up."""
    for path in ("cli_nets.py", "./cli_nets.py"):
        done = inside("plan", f"{path}:mlp", "--budget", "50%", "--json")
        assert done.code == 0, done


def test_keyword_inputs(inside: Run) -> None:
    done = inside(
        "plan",
        "cli_nets:Keyed",
        "--budget",
        "50%",
        "--input",
        "ids=int64:4x6",
        "--input",
        "mask=float32:4x6x8",
        "--json",
    )
    assert done.code == 0, done
    macs = {layer["name"]: layer["macs"] for layer in done.json["layers"]}
    assert macs["out.weight"] == 6 * 64


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nothing_there:mlp", "nothing_there"),
        ("cli_nets.deeper:mlp", "cli_nets.deeper"),
        ("cli_nets:mpl", "no callable 'mpl'"),
        ("cli_nets:constant", "no callable 'constant'"),
        ("cli_nets:raises", "RuntimeError: no such checkpoint"),
        ("cli_nets:leaves", "SystemExit"),
        ("cli_nets:number", "made a int"),
        ("broken_nets:mlp", "SyntaxError"),
        ("broken_nets.py:mlp", "SyntaxError"),
        ("absent.py:mlp", "absent.py is not there"),
        ("cli_nets", "package.module:callable"),
        ("cli_nets:", "package.module:callable"),
        (":mlp", "package.module:callable"),
        ("", "package.module:callable"),
        ("..:mlp", "model '..:mlp'"),
        (".cli_nets:mlp", "model '.cli_nets:mlp'"),
        ("cli nets:mlp", "cli nets"),
        ("cli_nets:__builtins__", "no callable"),
        ("hf:absent.json", "absent.json"),
        ("timm:no_such_network", "no_such_network"),
        ("torchvision:no_such_network", "no_such_network"),
    ],
)
def test_models_that_cannot_be_had(inside: Run, model: str, says: str) -> None:
    if model.startswith("hf:"):
        pytest.importorskip("transformers")
    if model.startswith(("timm:", "torchvision:")):
        pytest.importorskip(model.partition(":")[0])
    for command in (("plan", model, "--budget", "50%"), ("plan", model, "--budget", "9", "--json")):
        done = inside(*command)
        assert done.code == 5, done
        assert says in done.err and done.out == ""


@pytest.mark.parametrize("model", ["cli_nets:no_weights", "cli_nets:lazy"])
def test_models_without_a_weight_to_allocate(inside: Run, model: str) -> None:
    done = inside("plan", model, "--budget", "50%")
    assert done.code in (2, 5), done
    assert done.err.startswith("npas plan: ")


@pytest.mark.parametrize(
    "budget", ["0", "-5", "nan", "", "ten", "10%%", "4000000.0", "true", "1e999", "0.001%"]
)
def test_budgets_that_cannot_be_read(inside: Run, budget: str) -> None:
    done = inside("plan", "cli_nets:mlp", f"--budget={budget}", "--json")
    assert done.code == 3, done
    assert "budget" in done.err and done.out == ""


@pytest.mark.parametrize("groups", ["auto", "own", "single", "random", "by_shape", "repeated"])
def test_the_smallest_budget_is_named_and_works(inside: Run, groups: str) -> None:
    command = ("plan", "cli_nets:mlp", "--groups", groups, "--json", "--budget")
    done = inside(*command, "1")
    assert done.code == 3, done
    smallest = done.err.split("the smallest usable one is ")[1].split(" ")[0].replace(",", "")
    assert inside(*command, smallest).code == 0
    assert inside(*command, str(int(smallest) - 1)).code == 3


@pytest.mark.parametrize("arguments", [["--k", "2"], ["--downsample", "rr"]])
def test_the_largest_budget_is_named_and_works(inside: Run, arguments: list[str]) -> None:
    command = ("plan", "cli_nets:mlp", "--groups", "single", *arguments, "--json", "--budget")
    done = inside(*command, "100x")
    assert done.code == 3, done
    largest = done.err.split("can use at most ")[1].split(";")[0].replace(",", "")
    assert inside(*command, largest).code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--groups", "sinlge"], "nearest: 'single'"),
        (["--groups", "owm"], "nearest: 'own'"),
        (["--groups", "["], "groups="),
        (["--groups", '{"0": "a"'], "--groups"),
        (["--groups", "{}x"], "--groups"),
        (["--groups", '{"nowhere": "a"}'], "'nowhere'"),
        (["--groups", '{"re:(": "a"}'], "regular expression"),
        (["--groups", '{"0": 3}'], "groups"),
        (["--groups", '{"0": ["a"]}'], "groups"),
        (["--groups", '{"0": null}'], "groups"),
        (["--groups", "own", "--n-banks", "2"], "n_banks"),
        (["--n-banks", "0"], "n_banks"),
        (["--n-banks", "99"], "n_banks"),
        (["--n-banks", "two"], "--n-banks"),
        (["--k", "0"], "k=0"),
        (["--k", "-1"], "k=-1"),
        (["--k", "1.5"], "--k"),
        (["--seed", "-1"], "seed"),
        (["--downsample", "wagv"], "nearest: 'wavg'"),
        (["--upsample", "maks"], "nearest: 'mask'"),
        (["--target-modules", "nowhere"], "target_modules"),
        (["--ignored-modules", "nowhere"], "ignored_modules"),
        (["--input", "float32"], "--input"),
        (["--input", "float32:"], "--input"),
        (["--input", "float33:1x8"], "--input"),
        (["--input", "float32:1x"], "--input"),
        (["--input", "float32:-1x8"], "--input"),
        (["--input", "float32:axb"], "--input"),
        (["--input", "x=float32"], "--input"),
        (["--input", "Tensor:1x8"], "--input"),
        (["--input", "float32:99999999999999999999x8"], "--input"),
        (["--input", "float32:4294967296x4294967296x4294967296"], "--input"),
        (["--input", "float32:2x7"], "example inputs"),
        (["--input", "float32:2x8", "--input", "float32:2x8"], "input"),
        (["--input", "y=float32:2x8"], "input"),
        (["--input", "input=float32:2x8", "--input", "input=float32:2x9"], "input"),
        (["--kwargs", "width=3"], "--kwargs"),
        (["--kwargs", "[1]"], "--kwargs"),
        (["--kwargs", "null"], "--kwargs"),
        (["--kwargs", "{'width': 3}"], "--kwargs"),
        (["--kwargs", "[" * 100_000], "--kwargs"),
        (["--surplus"], "--surplus"),
    ],
)
def test_arguments_that_do_not_fit(inside: Run, arguments: list[str], says: str) -> None:
    done = inside("plan", "cli_nets:mlp", "--budget", "50%", "--json", *arguments)
    assert done.code == 2, done
    assert says in done.err and done.out == ""


@pytest.mark.parametrize("kwargs", ['{"widht": 3}', '{"width": "x"}', '{"width": -1}', '{"": 1}'])
def test_kwargs_that_the_callable_refuses(inside: Run, kwargs: str) -> None:
    done = inside("plan", "cli_nets:mlp", "--budget", "50%", "--kwargs", kwargs)
    assert done.code == 5, done
    assert "cli_nets:mlp" in done.err


@pytest.mark.parametrize(
    "arguments", [[], ["--surplus"], ["paln"], ["explain"], ["diff", "a.json"], ["check"]]
)
def test_usage(inside: Run, arguments: list[str]) -> None:
    done = inside(*arguments)
    assert done.code == 2, done
    assert "usage: npas" in done.err and done.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plan", "-h"],
        ["count", "-h"],
        ["explain", "-h"],
        ["diff", "-h"],
        ["check", "-h"],
    ],
)
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    assert "usage: npas" in capsys.readouterr().out


PLAN_COMMANDS = [
    ["explain", "FILE"],
    ["explain", "FILE", "0.weight"],
    ["diff", "FILE", "plan.json"],
    ["diff", "plan.json", "FILE"],
    ["check", "FILE"],
    ["check", "FILE", "cli_nets:mlp"],
]


@pytest.mark.parametrize("command", PLAN_COMMANDS, ids=" ".join)
def test_plan_files_that_cannot_be_read(inside: Run, saved: Path, command: list[str]) -> None:
    text = saved.read_text(encoding="utf-8")
    (saved.parent / "folder.json").mkdir()
    (saved.parent / "binary.json").write_bytes(b"\xff\xfe\x00")
    (saved.parent / "words.json").write_text("not a plan")
    (saved.parent / "list.json").write_text("[]")
    (saved.parent / "cut.json").write_text(text[: len(text) // 2])
    (saved.parent / "edited.json").write_text(text.replace('"base": 0', '"base": 10000000', 1))
    for name, says in {
        "absent.json": "absent.json",
        "folder.json": "folder.json",
        "binary.json": "binary.json",
        "words.json": "not JSON",
        "list.json": "must be a JSON object",
        "cut.json": "not JSON",
        "edited.json": "layers[",
    }.items():
        for flags in ([], ["--json"]):
            done = inside(*[name if part == "FILE" else part for part in command], *flags)
            assert done.code == 4, (name, done)
            assert says in done.err and done.out == "", (name, done)


def test_a_plan_for_another_model(inside: Run, saved: Path) -> None:
    done = inside("check", "plan.json", "cli_nets:mlp", "--kwargs", '{"width": 12, "depth": 2}')
    assert done.code == 4, done
    assert "another model" in done.err
    assert "0.weight is (12, 8), planned (16, 8)" in done.err
    assert "3.weight is not in the model" in done.err
    done = inside("check", "plan.json", "cli_nets:absent")
    assert done.code == 5, done


def test_check_for_people(inside: Run, saved: Path) -> None:
    done = inside("check", "plan.json", "cli_nets:mlp")
    assert done.code == 0 and done.out == ""
    assert "plan.json is a valid plan and fits the model: 480 of 480 parameters" in done.err


def test_explain_for_people(inside: Run, saved: Path) -> None:
    plan = npas.Plan.load(saved)
    done = inside("explain", "plan.json")
    assert done.code == 0 and done.out == ""
    assert plan.explain() == done.err.strip()
    assert inside("explain", "plan.json", "1").err.strip() == plan.explain("1.weight")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_explain_of_an_unknown_layer(inside: Run, saved: Path, flags: list[str]) -> None:
    done = inside("explain", "plan.json", "0.wieght", *flags)
    assert done.code == 4, done
    assert "no layer '0.wieght' (nearest: '0.weight')" in done.err
    done = inside("explain", "plan.json", "b0", *flags)
    assert "no layer 'b0'; it has 0.weight, 1.weight, 2.weight and 1 more" in done.err
    done = inside("explain", "plan.json", "0.bias", *flags)
    assert done.code == 4 and "0.bias is kept as it is (of fewer than two dimensions)" in done.err


def test_explain_prints_names_as_they_are(inside: Run, saved: Path) -> None:
    """No markup, no lone surrogate and no control sequence reaches the terminal or a traceback."""
    text = saved.read_text(encoding="utf-8").replace('"0.weight"', '"[red]0\\ud800[/].weight"')
    saved.write_text(text, encoding="utf-8")
    for flags in ([], ["--json"]):
        done = inside("explain", "plan.json", *flags)
        assert done.code in (0, 4), done
        if done.code == 0:
            assert "[red]0" in done.out + done.err


def test_diff_of_equal_plans(inside: Run, saved: Path) -> None:
    done = inside("diff", "plan.json", "plan.json")
    assert done.code == 0 and done.out == "" and "the plans are the same" in done.err
    done = inside("diff", "plan.json", "plan.json", "--json")
    assert done.code == 0 and done.json == {"changes": []}


def test_diff_for_people(inside: Run, saved: Path) -> None:
    assert inside("plan", "cli_nets:mlp", "--budget", "60%", "--out", "other.json").code == 0
    done = inside("diff", "plan.json", "other.json")
    assert done.code == 1 and done.out == ""
    assert "plan budget: 50% -> 60%" in done.err


@pytest.mark.parametrize("out", ["absent/plan.json", ".", "cli_nets.py/plan.json"])
def test_out_that_cannot_be_written(inside: Run, out: str) -> None:
    done = inside("plan", "cli_nets:mlp", "--budget", "50%", "--json", "--out", out)
    assert done.code == 4, done
    assert done.out == ""


def test_out_is_not_touched_by_an_error(inside: Run, saved: Path) -> None:
    before = saved.read_bytes()
    done = inside("plan", "cli_nets:mlp", "--budget", "1", "--out", "plan.json")
    assert done.code == 3
    assert saved.read_bytes() == before


def test_mapping_files(inside: Run, saved: Path) -> None:
    layers = [f"{i}.weight" for i in range(4)]
    npas.Mapping({"all": tuple(layers)}, "by hand").save(saved.parent / "mapping.json")
    done = inside("plan", "cli_nets:mlp", "--budget", "50%", "--groups", "mapping.json", "--json")
    assert done.code == 0, done
    assert [bank["layers"] for bank in done.json["banks"]] == [layers]
    for name, content in {
        "mapping.json": b"{}",
        "binary.json": b"\xff\xfe\x00",
        "other.json": b'{"npas_mapping": 1, "source": "x", "banks": {"a": ["nowhere"]}}',
    }.items():
        (saved.parent / name).write_bytes(content)
        done = inside("plan", "cli_nets:mlp", "--budget", "50%", "--groups", name)
        assert done.code == 4, done
    done = inside("plan", "cli_nets:mlp", "--budget", "50%", "--groups", "absent.json")
    assert done.code == 4, done


def test_no_weights_are_allocated(inside: Run) -> None:
    """48 GB of them: it plans on meta tensors."""
    kwargs = '{"width": 20000, "depth": 30}'
    done = inside("plan", "cli_nets:mlp", "--budget", "10%", "--kwargs", kwargs, "--json")
    assert done.code == 0, done
    assert done.json["n_dense"] > 12_000_000_000


def test_the_same_command_writes_the_same_bytes(inside: Run) -> None:
    command = ("plan", "cli_nets:mlp", "--budget", "50%", "--groups", "random", "--json")
    assert inside(*command).out == inside(*command).out


# Searching.


def test_process_search_writes_a_mapping_that_plans(process: Run, where: Path) -> None:
    command = ("search", "cli_nets:searched", "--groups", "2", "--out", "mapping.json")
    done = process(*command, "--plot", "mapping.svg")
    assert done.code == 0, done
    assert done.out == "" and "4 layers in 2 banks, learned (emb)" in done.err
    mapping = npas.Mapping.load(where / "mapping.json")
    assert mapping.learned is not None and mapping.learned.steps == 6
    assert (where / "mapping.svg").stat().st_size > 1000
    assert not (where / "mapping.json.state").exists()
    first = (where / "mapping.json").read_bytes()
    again = process(*command, "--json")
    assert again.code == 0 and again.out.encode() == first == (where / "mapping.json").read_bytes()
    planned = process(
        *("plan", "cli_nets:mlp", "--budget", "50%", "--groups", "mapping.json", "--json")
    )
    assert planned.code == 0
    assert [b["layers"] for b in planned.json["banks"]] == [list(x) for x in mapping.banks.values()]


def test_a_search_is_written_to_what_groups_takes(inside: Run, where: Path) -> None:
    done = inside("search", "cli_nets:searched", "--out", "map.txt")
    assert done.code == 2 and "--out 'map.txt' must end in .json" in done.err
    assert not (where / "map.txt").exists()


def test_the_command_line_has_no_weights_to_read(inside: Run) -> None:
    done = inside("plan", "cli_nets:mlp", "--budget", "50%", "--groups", "fit")
    assert done.code == 2 and "npas.fit(model, budget)" in done.err and done.out == ""


def test_a_model_file_imports_what_lies_beside_it(process: Run, where: Path) -> None:
    folder = where / "models"
    folder.mkdir()
    (folder / "beside_it.py").write_text("from torch import nn\nNet = lambda: nn.Linear(8, 8)\n")
    (folder / "named.py").write_text("from beside_it import Net\n")
    done = process("plan", "models/named.py:Net", "--budget", "100%", "--json")
    assert done.code == 0 and [layer["name"] for layer in done.json["layers"]] == ["weight"], done


def test_folders_of_saved_modules_are_plans(inside: Run, where: Path) -> None:
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))
    ssn = npas.compile(model, "50%")
    npas.save(ssn, where / "kept")
    assert inside("check", "kept").code == 0
    assert inside("diff", "kept", "kept/plan.json").code == 0
    assert inside("explain", "kept", "1", "--json").json["layers"][0]["name"] == "1.weight"
    (where / "empty").mkdir()
    done = inside("check", "empty")
    assert done.code == 4 and "plan empty: a folder without plan.json" in done.err


def test_a_plan_is_no_mapping(inside: Run, saved: Path) -> None:
    npas.Mapping({"one": ("0.weight",)}, "by hand").save(saved.with_name("map.json"))
    done = inside("plan", "cli_nets:mlp", "--budget", "50%", "--groups", "plan.json")
    assert done.code == 4 and "mapping plan.json: is a plan" in done.err
    done = inside("check", "map.json")
    assert done.code == 4 and "plan map.json: is a mapping" in done.err


def test_search_takes_an_optimizer_from_the_script(inside: Run, where: Path) -> None:
    done = inside("search", "cli_nets:tuned", "--method", "wavg", "--steps", "3", "--out", "m.json")
    assert done.code == 0, done
    learned = npas.Mapping.load(where / "m.json").learned
    assert learned is not None
    assert (learned.optimizer, learned.method, learned.steps) == ("SGD", "wavg", 3)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["cli_nets:searched", "--groups", "many"], 2, "--groups 'many'"),
        (["cli_nets:searched", "--groups", "9"], 2, "between 1 and 4"),
        (["cli_nets:searched", "--method", "pca"], 2, "method='pca'"),
        (["cli_nets:searched", "--steps", "7"], 2, "after 6 of 7 steps"),
        (["cli_nets:searched", "--kwargs", '{"loss": "abs"}'], 2, "scalar"),
        (["cli_nets:searched", "--plot", "m.jpeg2"], 2, ".svg"),
        (["cli_nets:searched", "--plot", "absent/m.png"], 4, "absent"),
        (["cli_nets:mlp"], 5, "returned Sequential"),
        (["cli_nets:number"], 5, "returned int"),
        (["cli_nets:raises"], 5, "no such checkpoint"),
        (["cli_nets"], 5, "SCRIPT.py:make"),
        (["cli_nets:absent"], 5, "absent"),
    ],
)
def test_searches_that_cannot_be(
    inside: Run, where: Path, arguments: list[str], code: int, says: str
) -> None:
    done = inside("search", *arguments, "--out", "m.json")
    assert done.code == code and says in done.err, done
    assert done.out == "" and not (where / "m.json").exists()


def test_plan_draws_where_it_is_asked_to(inside: Run, where: Path) -> None:
    done = inside("plan", "cli_nets:mlp", "--budget", "50%", "--plot", "plan.png", "--json")
    assert done.code == 0 and (where / "plan.png").stat().st_size > 1000
    done = inside("plan", "cli_nets:mlp", "--budget", "50%", "--plot", "plan.txt", "--json")
    assert done.code == 2 and ".png" in done.err and done.out == ""
