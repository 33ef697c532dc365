"""The public names, pinned: whoever adds or renames one changes this list and the CHANGELOG."""

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import npas

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parent.parent

NAMES = [
    "BudgetError",
    "CheckpointError",
    "DivergedError",
    "Mapping",
    "NpasError",
    "NpasWarning",
    "Plan",
    "PlanError",
    "TraceError",
    "check_ranks",
    "cluster",
    "compile",
    "compile_",
    "count",
    "dense_state_dict",
    "fit",
    "fsdp_units",
    "load",
    "load_dense_",
    "materialize",
    "parallelize_module",
    "param_groups",
    "plan",
    "refresh",
    "report",
    "reset",
    "save",
    "search",
    "search_model",
    "uncompile_",
]

SIGNATURES = {
    "plan": (
        "model, budget, *, groups='auto', n_banks=None, k=None, downsample='wavg', "
        "upsample='mask', seed=0, target_modules=None, ignored_modules=None, overrides=None, "
        "example_inputs=(), example_kwargs=None"
    ),
    "compile": (
        "model, budget=None, *, plan=None, init='random', frontend='auto', backend='auto', "
        "schedule='auto', recompute='auto', calibrate=None, fit_batches=None, "
        "**plan_arguments"
    ),
    "compile_": (
        "model, budget=None, *, plan=None, init='random', backend='auto', schedule='auto', "
        "recompute='auto', calibrate=None, fit_batches=None, **plan_arguments"
    ),
    "check_ranks": "module, *optimizers, group=None",
    "count": "model, plan, example_inputs=(), example_kwargs=None",
    "dense_state_dict": "ssn",
    "fit": "model, budget=None, *, batches=None, **arguments",
    "fsdp_units": "module",
    "load_dense_": "ssn, state_dict",
    "load": "folder, model, *, backend='auto', example_inputs=(), example_kwargs=None",
    "save": "ssn, folder",
    "cluster": "searched, groups='auto', *, seed=0, share=1.0",
    "search": (
        "model, batches, loss_fn, *, groups='auto', method='emb', steps=None, optimizer=None, "
        "seed=0, budget=None, templates=8, start='equal', checkpoint=None, callbacks=(), "
        "progress=None, target_modules=None, ignored_modules=None, example_inputs=(), "
        "example_kwargs=None"
    ),
    "search_model": (
        "model, *, method='emb', templates=8, start='equal', target_modules=None, "
        "ignored_modules=None, example_inputs=(), example_kwargs=None"
    ),
    "uncompile_": "model",
    "materialize": "ssn",
    "parallelize_module": "ssn, mesh, plan",
    "param_groups": "module, weight_decay=0.0, *, lr=None, sharing_power=0.0",
    "refresh": "ssn",
    "report": "ssn",
    "reset": "ssn, stds=None, *, init=None",
}


def bare(function: object) -> str:
    assert callable(function)
    found = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return str(inspect.Signature(parameters))[1:-1]


def test_the_names() -> None:
    assert npas.__all__ == NAMES
    assert sorted(NAMES) == NAMES


def test_every_name_is_there_and_documented() -> None:
    for name in NAMES:
        value = getattr(npas, name)
        assert inspect.getdoc(value), name
        assert value.__module__.startswith("npas."), name


def test_signatures() -> None:
    assert {name: bare(getattr(npas, name)) for name in SIGNATURES} == SIGNATURES
    functions = {name for name in NAMES if inspect.isfunction(getattr(npas, name))}
    assert functions == set(SIGNATURES)


def test_every_error_has_one_root() -> None:
    errors = [name for name in NAMES if name.endswith("Error")]
    for name in errors:
        assert issubclass(getattr(npas, name), npas.NpasError)
    assert issubclass(npas.NpasWarning, UserWarning)
    assert not issubclass(npas.NpasError, ValueError)


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert npas.__version__ == project["version"]


def test_the_package_is_typed() -> None:
    assert (Path(npas.__file__).parent / "py.typed").is_file()


def test_importing_changes_nothing_and_needs_no_extras() -> None:
    """In a process of its own: no extra is imported, no default of torch or Python moves."""
    code = """
import random, sys, warnings
import torch
before = (
    torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
    torch.initial_seed(), torch.get_rng_state().tolist(), random.getstate(),
    list(warnings.filters), list(sys.path), torch.are_deterministic_algorithms_enabled(),
    torch.nn.Module.__call__, torch.nn.Linear.forward,
)
import npas
after = (
    torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
    torch.initial_seed(), torch.get_rng_state().tolist(), random.getstate(),
    list(warnings.filters), list(sys.path), torch.are_deterministic_algorithms_enabled(),
    torch.nn.Module.__call__, torch.nn.Linear.forward,
)
same = [a == b for a, b in zip(before, after)]
extras = sorted({"sklearn", "matplotlib", "timm", "torchvision", "transformers"} & set(sys.modules))
print(all(same), same, extras)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout.startswith("True"), done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("[]"), done.stdout
