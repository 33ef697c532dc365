"""The head of the page: the budget, what it is spent on, and what the plan has; no script."""

from typing import Any

import torch

from npas.html.bars import budget_parts, dense_bar, parts_bar
from npas.html.command import plan_command
from npas.html.glance import since_html
from npas.html.text import amount, bytes_text, escaped, short, tiles_html
from npas.plan import Plan


def head_html(plan: Plan, head: dict[str, Any], name: str = "", against: Plan | None = None) -> str:
    """Return the head as HTML.

    Args:
        plan: of any size.
        head: of `npas.html.data.plan_data`.
        name: of the plan's file, or nothing.
        against: an earlier plan, which gets a sentence.
    """
    since = "" if against is None else since_html(against, plan)
    title = f'<p class="file">{escaped(name)}</p>\n' if name else ""
    return f"""<section id="budget" aria-labelledby="budget-title">
{title}<h1 id="budget-title">A budget of {escaped(plan.budget)} <span class="of">for
{plan.n_dense:,} parameters</span></h1>
<p class="lead">Layers mapped to banks by <b>{escaped(plan.groups)}</b>, at most
{amount(plan.k, "template")} a layer, seed {plan.seed}. <span
class="screen">New here? See <a href="#words">what the words mean</a>.</span></p>
{since}
{tiles_html(_tiles(plan, head))}
<h2>Where the budget goes</h2>
{dense_bar(plan)}
<p class="over">The budget of {plan.budget_params:,}</p>
{parts_bar(plan)}
<div class="pair-of">
<div>{_legend(plan)}<p class="note">A part too small to be seen is drawn as a line.</p></div>
<div class="again"><h3>To make this plan again</h3>
<pre tabindex="0"><code>{escaped(plan_command(plan, name))}</code></pre>
<p class="note">{_again(plan)}</p></div>
</div>
</section>"""


def _again(plan: Plan) -> str:
    inputs = "" if plan.n_macs is None else " and its inputs"
    return (
        f"The file has these choices. It does not have the model{inputs}, which you fill in, nor "
        "patterns of names or a number of banks that were asked for. Whether the new plan is the "
        "same: <code>npas diff OLD NEW</code>."
    )


def _tiles(plan: Plan, head: dict[str, Any]) -> list[tuple[str, str, str]]:
    n, budget = plan.n_params, plan.budget_params
    kept = sum(fixed.n_params for fixed in plan.fixed)
    generation = head["generation_macs"]
    ordinary = {bank.name for bank in plan.banks if plan.is_ordinary(bank.name)}
    memory, of = _memory(plan)
    share = f", {_percent(generation, plan.n_macs)} of a sample's" if plan.n_macs else ""
    sample: tuple[str, str] = (
        ("not known", "plan with example inputs: --input")
        if plan.n_macs is None
        else (f"{short(plan.n_macs)}MACs", f"{plan.n_macs:,} multiply-accumulates, in these layers")
    )
    return [
        ("Trainable parameters", f"{n:,}", f"{_percent(n, plan.n_dense)} of the dense model"),
        ("Budget", f"{budget:,}", f"{_percent(n, budget)} used, {budget - n:,} left"),
        ("Memory of banks", memory, of),
        ("Banks", f"{len(plan.banks):,}", _shared(len(plan.banks), len(ordinary))),
        ("Layers", f"{len(plan.layers):,}", _made(plan, ordinary)),
        ("Not allocated", f"{kept:,}", f"parameters, in {amount(len(plan.fixed), 'tensor')}"),
        ("To run one sample", sample[0], sample[1]),
        (
            "To make all weights once",
            f"{short(generation)}MACs",
            f"{generation:,} multiply-accumulates{share}",
        ),
    ]


def _memory(plan: Plan) -> tuple[str, str]:
    banks = sum(bank.size * _item_size(bank.dtype) for bank in plan.banks)
    weights = sum(layer.n * _item_size(layer.dtype) for layer in plan.layers)
    dtypes = sorted({bank.dtype for bank in plan.banks})
    of = f"of {dtypes[0]}" if len(dtypes) == 1 else f"of {len(dtypes)} dtypes"
    return bytes_text(banks), f"{of}; all weights made are {bytes_text(weights)}"


def _item_size(dtype: str) -> int:
    return getattr(torch, dtype).itemsize


def _shared(banks: int, ordinary: int) -> str:
    if not ordinary:
        return "every weight is made from a bank"
    return f"{banks - ordinary:,} shared or upsampled, {ordinary:,} ordinary"


def _made(plan: Plan, ordinary: set[str]) -> str:
    generated = [layer for layer in plan.layers if layer.bank not in ordinary]
    counts = {
        "combined": sum(layer.k >= 2 for layer in generated),
        "as a window": sum(layer.k == 1 for layer in generated),
        "upsampled": sum(layer.k == 0 for layer in generated),
        "ordinary": len(plan.layers) - len(generated),
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _percent(part: int, whole: int) -> str:
    """Return a share that says 100% only where it is all, and 0% only where it is nothing."""
    if 0 < part < whole / 10_000:
        return "<0.01%"
    if 0.9999 * whole < part < whole:
        return f"{part * 10**7 // whole / 10**5:.5f}%"  # rounded down
    return f"{part / whole:.2%}"


def _legend(plan: Plan) -> str:
    rows = "".join(
        f'<tr><th scope="row"><svg class="key" viewBox="0 0 10 10" aria-hidden="true">'
        f'<rect class="part{i}" width="10" height="10" rx="2"/></svg>{name}</th>'
        f"<td>{count:,}</td><td>{escaped(_percent(count, plan.budget_params))}</td></tr>"
        for i, (name, count) in enumerate(budget_parts(plan).items())
    )
    return (
        '<table class="legend"><thead><tr><th scope="col">Spent on</th>'
        '<th scope="col">Parameters</th><th scope="col">Share</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
