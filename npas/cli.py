"""The command line: plan, count, search, explain, diff, report, check."""

import argparse
import contextlib
import importlib.util
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

import npas
from npas import completion
from npas.errors import BudgetError, NpasError, PlanError, TraceError
from npas.mapping import Mapping
from npas.model_source import ModelError, load_model, load_search, parse_input
from npas.plan import DOWNSAMPLE, UPSAMPLE, Plan

OK, DIFFERS, USAGE, BUDGET, INVALID, MODEL = range(6)
INTERRUPTED = 130  # as shells say it
_PICTURES = (".png", ".svg", ".pdf")
_MODEL_HELP = (
    "package.module:callable, file.py:callable, timm:NAME, torchvision:NAME or hf:CONFIG.json"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 fine, 1 differs (``diff``), 2 usage, 3 budget, 4 invalid plan or file, 5 the model cannot
        be loaded or traced, 130 interrupted (``search``, which has saved its state).
    """
    parsed = _parser().parse_args(arguments)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        return parsed.run(parsed)
    except BudgetError as error:
        code, message = BUDGET, str(error)
    except PlanError as error:
        code, message = INVALID, str(error)
    except (ModelError, TraceError) as error:
        code, message = MODEL, str(error)
    except NpasError as error:
        code, message = USAGE, str(error)
    except OSError as error:
        code, message = INVALID, str(error)
    except KeyboardInterrupt as error:
        code, message = INTERRUPTED, str(error) or "interrupted"
    errors.print(f"npas {parsed.command}: {message}")
    return code


def _plan(arguments: argparse.Namespace) -> int:
    _check_outputs(arguments.out, arguments.plot)
    result = _planned(arguments)[1]
    if arguments.out:
        result.save(arguments.out)
    if arguments.plot:
        result.plot().savefig(arguments.plot, dpi=130)
    if arguments.json:
        sys.stdout.write(result.to_json())
    else:
        console = _console()
        console.print(result.table(full=arguments.full))
        console.print(result.summary())
    return OK


def _count(arguments: argparse.Namespace) -> int:
    from npas.counting import count
    from npas.counting_view import count_json, count_table

    batches = _batches(arguments.batch)
    model, plan, inputs = _planned(arguments)
    found = count(model, plan, *inputs)
    if arguments.json:
        sys.stdout.write(json.dumps(count_json(found, batches), indent=1) + "\n")
    else:
        _console().print(count_table(found, batches))
    return OK


def _planned(
    arguments: argparse.Namespace,
) -> tuple[nn.Module, Plan, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return the model, its plan, and the example inputs by position and by name."""
    from npas.api import plan

    model = load_model(arguments.model, _kwargs(arguments.kwargs))
    inputs = [parse_input(text) for text in arguments.input]
    args = tuple(value for name, value in inputs if name is None)
    kwargs = {name: value for name, value in inputs if name is not None}
    result = plan(
        model,
        arguments.budget,
        groups=_groups(arguments.groups),
        n_banks=arguments.n_banks,
        k=arguments.k,
        downsample=arguments.downsample,
        upsample=arguments.upsample,
        seed=arguments.seed,
        target_modules=arguments.target_modules,
        ignored_modules=arguments.ignored_modules,
        example_inputs=args,
        example_kwargs=kwargs or None,
    )
    return model, result, (args, kwargs)


def _search(arguments: argparse.Namespace) -> int:
    from npas.searching.search import search

    _check_outputs(arguments.out, arguments.plot)
    out = Path(arguments.out)
    if out.suffix != ".json":
        raise NpasError(f"--out {str(out)!r} must end in .json, by which --groups knows a mapping")
    groups = (
        arguments.groups if arguments.groups == "auto" else _whole("--groups", arguments.groups)
    )
    # The script draws its model's weights: the same seed gives the same file.
    torch.manual_seed(arguments.seed)
    model, batches, loss_fn, *optimizer = load_search(arguments.script, _kwargs(arguments.kwargs))
    mapping = search(
        model,
        batches,
        loss_fn,
        groups=groups,
        method=arguments.method,
        steps=arguments.steps,
        optimizer=optimizer[0] if optimizer else None,
        seed=arguments.seed,
        budget=arguments.budget,
        templates=arguments.templates,
        checkpoint=arguments.checkpoint or out.with_name(f"{out.name}.state"),
        target_modules=arguments.target_modules,
        ignored_modules=arguments.ignored_modules,
    )
    mapping.save(out)
    if arguments.plot:
        mapping.plot().savefig(arguments.plot, dpi=130)
    if arguments.json:
        sys.stdout.write(mapping.to_json())
    else:
        console = _console()
        console.print(mapping.summary())
        console.print(f"wrote {out}; use it with: npas plan MODEL --budget B --groups {out}")
    return OK


def _explain(arguments: argparse.Namespace) -> int:
    plan = Plan.load(arguments.plan)
    if arguments.json:
        layers = plan.layers if arguments.layer is None else (plan.layer(arguments.layer),)
        rows = [
            asdict(layer) | {"bank_size": plan.bank_by_name[layer.bank].size} for layer in layers
        ]
        sys.stdout.write(json.dumps({"layers": rows}, indent=1) + "\n")
    else:
        _console().print(plan.explain(arguments.layer))
    return OK


def _diff(arguments: argparse.Namespace) -> int:
    changes = Plan.load(arguments.before).diff(Plan.load(arguments.after))
    if arguments.json:
        rows = [asdict(change) for change in changes]
        sys.stdout.write(json.dumps({"changes": rows}, indent=1) + "\n")
    else:
        console = _console()
        for change in changes:
            console.print(str(change))
        if not changes:
            console.print("the plans are the same")
    return DIFFERS if changes else OK


def _report(arguments: argparse.Namespace) -> int:
    from npas.html import write_report

    page = write_report(arguments.plan, arguments.out, arguments.against)
    n_bytes = page.stat().st_size
    if arguments.json:
        sys.stdout.write(json.dumps({"path": str(page), "bytes": n_bytes}) + "\n")
    else:
        _console().print(f"wrote {page} ({n_bytes:,} bytes); open it in a browser")
    return OK


def _check(arguments: argparse.Namespace) -> int:
    from npas.planning import check_fits

    plan = Plan.load(arguments.plan)
    if arguments.model:
        check_fits(plan, load_model(arguments.model, _kwargs(arguments.kwargs)))
    fits = " and fits the model" if arguments.model else ""
    if arguments.json:
        sys.stdout.write(json.dumps({"valid": True, "n_params": plan.n_params}) + "\n")
    else:
        _console().print(
            f"{arguments.plan} is a valid plan{fits}: {plan.n_params:,} of "
            f"{plan.budget_params:,} parameters"
        )
    return OK


def _check_outputs(out: str | None, plot: str | None) -> None:
    """Refuse what could not be written, before the work is done."""
    for option, path in (("--out", out), ("--plot", plot)):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise NotADirectoryError(f"{option} {path!r}: the folder is not there")
    if plot is not None and Path(plot).suffix not in _PICTURES:
        raise NpasError(f"--plot {plot!r} must end in {', '.join(_PICTURES)}")
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise NpasError("--plot needs matplotlib: pip install 'npas[plot]'")


def _batches(text: str) -> list[int]:
    try:
        found = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise NpasError(f"--batch {text!r} must be whole numbers of at least 1, with commas: 1,64")
    return found


def _whole(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise NpasError(f"{option} {text!r} must be a whole number or auto") from None


def _console() -> Console:
    # Text for people goes to the terminal, or to stderr where stdout is read by a program.
    to_terminal = sys.stdout.isatty()
    return Console(
        stderr=not to_terminal,
        highlight=False,
        markup=False,
        width=None if to_terminal else 140,
        soft_wrap=not to_terminal,
    )


class _Version(argparse.Action):
    """Prints the versions that a report of a fault needs, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit."""
        found = {"npas": npas.__version__, "python": platform.python_version()}
        for package in ("torch", "triton"):
            with contextlib.suppress(PackageNotFoundError):
                found[package] = version(package)
        print(", ".join(f"{name} {number}" for name, number in found.items()))
        parser.exit()


class _Completion(argparse.Action):
    """Prints a shell's completion script, and exits."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Print and exit."""
        try:
            print(completion.script(_parser(), values))
        except NpasError as error:
            parser.error(str(error))
        parser.exit()


def _kwargs(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NpasError(f"--kwargs {text[:80]!r} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise NpasError(f"--kwargs {text!r} must be a JSON object")
    return found


def _groups(text: str) -> str | dict[str, str] | Mapping:
    if text == "fit":
        raise NpasError(
            "--groups fit reads weights, and the command line builds models without any; use "
            "npas.fit(model, budget) in Python"
        )
    if text.endswith(".json"):
        return Mapping.load(text)
    if text.startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise NpasError(f"--groups {text!r} is not JSON ({error})") from error
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="npas",
        description="Fit a network to a parameter budget by sharing parameters. Text goes to "
        "stderr where stdout is not a terminal (2> FILE); --json gives JSON on stdout.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="versions of what is installed")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=completion.SHELLS,
        action=_Completion,
        help=f"a script that completes npas in a shell: {', '.join(completion.SHELLS)}",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    plan = commands.add_parser("plan", help="decide which layers share which parameters")
    _add_plan_arguments(plan)
    plan.add_argument("--out", help="write the plan to this file")
    plan.add_argument("--plot", metavar="FILE", help="draw the plan (.png, .svg, .pdf)")
    plan.add_argument("--full", action="store_true", help="a row a layer, also where blocks repeat")
    plan.set_defaults(run=_plan)

    count = commands.add_parser(
        "count", help="what a plan costs: parameters by kind, multiply-accumulates, overhead"
    )
    _add_plan_arguments(count)
    count.add_argument("--batch", default="1,64", help="batch sizes, with commas; 1,64 by default")
    count.set_defaults(run=_count)

    search = commands.add_parser("search", help="learn which layers share, by a short training")
    search.add_argument(
        "script",
        metavar="SCRIPT.py:make",
        help="callable that returns model, batches, loss_fn and, if wanted, a function that makes "
        "the optimizer from parameter groups",
    )
    search.add_argument("--groups", default="auto", help="number of banks, or auto")
    search.add_argument("--out", required=True, help="write the mapping to this file (.json)")
    search.add_argument("--method", default="emb", help="emb or wavg")
    search.add_argument("--steps", type=int, help="training steps; all batches by default")
    search.add_argument("--templates", type=int, default=8, help="templates of the search's bank")
    search.add_argument("--seed", type=int, default=0, help="of the search; 0 by default")
    search.add_argument("--budget", help="that the mapping is for, as npas plan takes it")
    search.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="state of an interrupted search, to go on from; OUT.state by default",
    )
    search.add_argument("--target-modules", nargs="+", metavar="PATTERN", help="only these")
    search.add_argument("--ignored-modules", nargs="+", metavar="PATTERN", help="not these")
    search.add_argument("--kwargs", default="{}", help="JSON arguments for the callable")
    search.add_argument("--plot", metavar="FILE", help="draw the mapping (.png, .svg, .pdf)")
    search.set_defaults(run=_search)

    explain = commands.add_parser("explain", help="where a layer's weights come from, and why")
    explain.add_argument("plan", metavar="PLAN_OR_DIR")
    explain.add_argument("layer", nargs="?")
    explain.set_defaults(run=_explain)

    diff = commands.add_parser("diff", help="what differs between two plans")
    diff.add_argument("before", metavar="PLAN_OR_DIR")
    diff.add_argument("after", metavar="PLAN_OR_DIR")
    diff.set_defaults(run=_diff)

    report = commands.add_parser("report", help="a plan as one HTML page, to look at and to share")
    report.add_argument("plan", metavar="PLAN_OR_DIR", help="a plan, or what npas.save wrote")
    report.add_argument("--out", metavar="FILE", help="the page; beside the plan by default")
    report.add_argument(
        "--against", metavar="PLAN_OR_DIR", help="an earlier plan: show what changed since"
    )
    report.set_defaults(run=_report)

    check = commands.add_parser("check", help="validate a plan, alone or against a model")
    check.add_argument("plan", metavar="PLAN_OR_DIR")
    check.add_argument("model", nargs="?", help=_MODEL_HELP)
    check.add_argument("--kwargs", default="{}", help="JSON arguments for the callable")
    check.set_defaults(run=_check)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="pure JSON on stdout")
    return parser


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=_MODEL_HELP)
    parser.add_argument("--budget", required=True, help="10%%, 0.1, 4M, 16MiB, 4x, largest")
    parser.add_argument(
        "--groups",
        default="auto",
        help="auto, own, single, random, by_shape, repeated, albert (as repeated), soft_sharing, "
        "a JSON object of patterns, or a mapping file (.json)",
    )
    parser.add_argument("--n-banks", type=int, help="number of banks for auto and random")
    parser.add_argument("--k", type=int, help="most templates a layer may have")
    parser.add_argument("--downsample", default="wavg", help=", ".join(DOWNSAMPLE))
    parser.add_argument("--upsample", default="mask", help=", ".join(UPSAMPLE))
    parser.add_argument("--seed", type=int, default=0, help="of random groups; 0 by default")
    parser.add_argument(
        "--target-modules", nargs="+", metavar="PATTERN", help="allocate only these"
    )
    parser.add_argument("--ignored-modules", nargs="+", metavar="PATTERN", help="leave these out")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]DTYPE:SIZES",
        help="an example input, such as float32:2x3x32x32; with two samples it is seen what all "
        "of them share; again for each input",
    )
    parser.add_argument("--kwargs", default="{}", help="JSON arguments for the callable")


if __name__ == "__main__":
    raise SystemExit(main())
