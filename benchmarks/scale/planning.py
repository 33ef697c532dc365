"""Time and memory of planning models that fit on no machine, each in a process of its own.

``python -m benchmarks.scale.planning [NAME ...]`` prints them as JSON.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

CONFIGS = Path(__file__).parent / "configs"
NAMES = ("decoder-8b", "decoder-70b", "decoder-405b", "moe-671b")
BUDGET = "10%"


def measure(name: str, rounds: int = 3) -> list[dict[str, Any]]:
    """Return the rows of a configuration, medians of processes that plan it once.

    Args:
        name: of a file in `CONFIGS`.
        rounds: processes.
    """
    found = [_in_process(name) for _ in range(rounds)]
    first = found[0]
    assert all(one["digest"] == first["digest"] for one in found), "the plan is not deterministic"
    assert first["trained"] <= first["asked"], "the plan is over its budget"
    values = {
        measure: (median(one[measure] for one in found), unit)
        for measure, unit in (
            ("imports", "s"),
            ("model on meta", "s"),
            ("plan", "s"),
            ("table", "s"),
            ("peak memory", "bytes"),
        )
    }
    values |= {
        "plan, a layer": (1e3 * values["plan"][0] / first["layers"], "ms"),
        "parameters": (first["dense"], ""),
        "trained": (first["trained"], ""),
        "layers": (first["layers"], ""),
        "banks": (first["banks"], ""),
        "rows of the table": (first["rows"], ""),
        "JSON": (first["json"], "bytes"),
    }
    return [
        {"case": f"planning {name} at {BUDGET}", "measure": what, "value": value, "unit": unit}
        for what, (value, unit) in values.items()
    ]


def _in_process(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale.planning", "--once", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"planning {name} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def plan_once(name: str) -> dict[str, Any]:
    """Plan once and return what it took; imports are not part of the times of the steps."""
    start = time.perf_counter()
    import hashlib
    import io

    import transformers  # noqa: F401
    from rich.console import Console
    from torch.fx import symbolic_trace  # noqa: F401

    import npas
    from npas.model_source import load_model
    from npas.plan_rows import rows

    imported = time.perf_counter()
    model = load_model(f"hf:{CONFIGS / name}.json", {})
    made = time.perf_counter()
    plan = npas.plan(model, BUDGET)
    planned = time.perf_counter()
    Console(file=io.StringIO(), width=160).print(plan.table(), plan.summary())
    shown = time.perf_counter()
    text = plan.to_json()
    return {
        "imports": imported - start,
        "model on meta": made - imported,
        "plan": planned - made,
        "table": shown - planned,
        "peak memory": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "dense": plan.n_dense,
        "asked": plan.budget_params,
        "trained": plan.n_params,
        "layers": len(plan.layers),
        "banks": len(plan.banks),
        "rows": len(rows(plan)),
        "json": len(text),
        "digest": hashlib.sha256(text.encode()).hexdigest(),
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--once", one]:
            print(json.dumps(plan_once(one)))
        case names:
            rows = [row for name in names or NAMES for row in measure(name)]
            print(json.dumps({"rows": rows}, indent=1))
