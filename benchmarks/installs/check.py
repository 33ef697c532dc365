"""What is tried in a fresh environment. Run by its Python, in an empty folder, as a file.

Prints JSON: what was found of each check, ``"ok"`` or the error. It imports nothing but npas and
what an extra brings, so that the checkout is not seen.
"""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

NET = """
from torch import nn

def make():
    return nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(32, 32), nn.ReLU())))
"""
# A configuration that transformers has had from its first versions on.
BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
PLAN = ("plan", "net.py:make", "--budget", "30%")


def npas_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command that the package brought."""
    return subprocess.run(
        [str(Path(sysconfig.get_path("scripts"), "npas")), *arguments],
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


def succeeds(*arguments: str) -> str:
    """Run a command that must succeed, and return its standard output."""
    done = npas_command(*arguments)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr.strip()[-500:]}"
    return done.stdout


def with_extra(module: str, extra: str, *arguments: str) -> str:
    """Run a command that needs an extra: it succeeds, or says which one is missing."""
    if importlib.util.find_spec(module) is not None:
        succeeds(*arguments)
        return "ok"
    done = npas_command(*arguments)
    assert done.returncode in (2, 5), f"exit code {done.returncode}"
    hint = f"pip install 'npas[{extra}]'"
    assert hint in done.stderr and "Traceback" not in done.stderr, done.stderr.strip()[-500:]
    return "asks for it"


def imported() -> None:
    """Import npas, from where pip put it, and with warnings as errors."""
    code = "import npas; print(npas.__file__)"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr.strip()[-500:]
    assert Path(done.stdout.strip()).is_relative_to(sysconfig.get_path("purelib")), done.stdout


def versions() -> None:
    """Print the versions by the command."""
    import npas

    said = succeeds("--version")
    assert said.startswith(f"npas {npas.__version__}, python 3."), said
    assert (", triton " in said) == (importlib.util.find_spec("triton") is not None), said


def planned() -> None:
    """Plan by the command, and read what it wrote."""
    plan = json.loads(succeeds(*PLAN, "--out", "plan.json", "--json"))
    assert plan["n_params"] <= plan["budget_params"] < 0.31 * 6 * (32 * 32 + 32), plan
    succeeds("check", "plan.json", "net.py:make")
    succeeds("report", "plan.json")
    assert Path("plan.html").stat().st_size > 10_000


def trained() -> None:
    """Compile, train for a step, save, load and go back to an ordinary module."""
    import torch
    from torch import nn

    import npas

    torch.manual_seed(0)
    names: dict[str, Callable[[], nn.Module]] = {}
    exec(NET, names)  # type: ignore[arg-type]
    make = names["make"]
    ssn = npas.compile(make(), "30%")
    optimizer = torch.optim.AdamW(npas.param_groups(ssn), lr=1e-3)
    x = torch.randn(8, 32)
    before = ssn(x)
    before.square().mean().backward()
    optimizer.step()
    after = ssn(x)
    assert not torch.equal(before, after), "a step changed nothing"
    npas.save(ssn, "saved")
    assert torch.equal(npas.load("saved", make)(x), after), "what was loaded is another network"
    assert torch.allclose(npas.materialize(ssn)(x), after, atol=1e-6)


def with_triton() -> str:
    """Train with the kernels in Triton's interpreter, or be told that Triton is missing."""
    code = (
        "import torch, npas; from net import make; torch.manual_seed(0)\n"
        "made = npas.compile(make(), '30%', backend='triton', init='copy'); "
        "x = torch.randn(8, 32); y = made(x); y.square().mean().backward(); "
        "torch.manual_seed(0); other = npas.compile(make(), '30%', backend='eager', init='copy'); "
        "assert torch.allclose(other(torch.randn(8, 32)), y, atol=1e-5)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    last = done.stderr.strip()[-300:]
    if importlib.util.find_spec("triton") is not None:
        assert done.returncode == 0, last
        return "ok"
    assert done.returncode == 1 and "pip install triton" in last, last
    return "asks for it"


def plotted() -> str:
    """Draw a plan, or be told which extra is missing."""
    return with_extra("matplotlib", "plot", *PLAN, "--plot", "plan.png")


def completed() -> str:
    """Print a completion script, or be told which extra is missing."""
    return with_extra("shtab", "completion", "--print-completion", "bash")


def from_transformers() -> str:
    """Plan a network of transformers, or be told which extra is missing."""
    Path("bert.json").write_text(json.dumps(BERT), encoding="utf-8")
    return with_extra("transformers", "hf", "plan", "hf:bert.json", "--budget", "30%")


def from_timm() -> str:
    """Plan a network of timm, or be told which extra is missing."""
    return with_extra("timm", "timm", "plan", "timm:resnet18", "--budget", "30%")


def from_torchvision() -> str:
    """Plan a network of torchvision, or be told which extra is missing."""
    return with_extra(
        "torchvision", "torchvision", "plan", "torchvision:resnet18", "--budget", "30%"
    )


def exported() -> str:
    """Run a compiled network that was written as ONNX, and import what else interop brings."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "-"
    import torch

    import npas

    for module in ("accelerate", "lightning", "peft", "torchao"):
        importlib.import_module(module)
    import onnxruntime  # pyright: ignore[reportMissingImports]

    names: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(NET, names)  # type: ignore[arg-type]
    ssn = npas.compile(names["make"](), "30%").eval()
    x = torch.randn(8, 32)
    program = torch.onnx.export(npas.materialize(ssn), (x,), dynamo=True, verbose=False)
    assert program is not None
    program.save("net.onnx")
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(found), ssn(x), atol=1e-5)
    return "ok"


CHECKS: dict[str, Callable[[], str | None]] = {
    "import": imported,
    "--version": versions,
    "plan": planned,
    "train": trained,
    "triton": with_triton,
    "plot": plotted,
    "completion": completed,
    "hf": from_transformers,
    "timm": from_timm,
    "torchvision": from_torchvision,
    "interop": exported,
}


def main() -> None:
    """Run every check, and print what came out."""
    Path("net.py").write_text(NET, encoding="utf-8")
    found = {}
    for name, check in CHECKS.items():
        try:
            found[name] = check() or "ok"
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            found[name] = f"failed: {' '.join(text.split())[:600]}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
