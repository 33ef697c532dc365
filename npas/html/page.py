"""The page: what stands in it without a script, its styles, its script, and its data."""

import base64
import hashlib
from importlib.resources import files
from typing import Any

from npas.html.changes import changes_data
from npas.html.data import plan_data
from npas.html.glance import glance_html
from npas.html.head import head_html
from npas.html.text import embedded, escaped
from npas.html.words import words_html
from npas.plan import Plan

_SCRIPTS = (
    *("dom", "table", "windows", "links", "details"),
    *("layers", "columns", "looking", "banks", "kept", "changes", "main"),
)
# A drawing of windows in a bank. It is in the page, so that no browser asks for /favicon.ico.
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='3' fill='%23245fb5'/%3E"
    "%3Cpath d='M3 5h6M5 8h8M3 11h4' stroke='%23fff' stroke-width='2'/%3E%3C/svg%3E"
)


def report_html(plan: Plan, against: Plan | None = None, name: str = "") -> str:
    """Return a plan as one HTML page, the same text for the same plan.

    Everything is in the page: it asks nothing of a network, and its policy forbids that it does.
    Names and reasons in a plan may be anyone's: they are text and nothing else.

    Args:
        plan: of any size.
        against: an earlier plan; what changed from it to ``plan`` is shown too.
        name: of the plan's file, without its folder: told in the title, for whoever has several.
    """
    data: dict[str, Any] = plan_data(plan)
    data["changes"] = None if against is None else changes_data(against, plan)
    style, script = _asset("page.css"), _script()
    share = f"{plan.n_params / plan.n_dense:.2%} of {plan.n_dense:,} parameters"
    return _PAGE.format(
        policy="; ".join(
            (
                "default-src 'none'",
                f"style-src '{_digest(style)}'",
                f"script-src '{_digest(script)}'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        title=escaped(f"{name or 'npas plan'}, budget {plan.budget}: {share}"),
        icon=_ICON,
        style=style,
        head=head_html(plan, data["head"], name, against),
        changes="" if against is None else _CHANGES.format(glance=glance_html(against, plan)),
        words=words_html(),
        changes_link="" if against is None else '<a href="#changes">Changes</a>',
        data=embedded(data),
        script=script,
    )


def _asset(name: str) -> str:
    return files("npas.html").joinpath("assets", name).read_text(encoding="utf-8")


def _script() -> str:
    parts = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    return f"(() => {{\n'use strict';\n{parts}}})();\n"


def _digest(text: str) -> str:
    """Return what a policy names an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


_CHANGES = """<section id="changes" aria-labelledby="changes-title">
<h2 id="changes-title">Changes</h2>
{glance}
<div id="changes-sizes"></div>
<div id="changes-rows"></div>
</section>
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="npas">
<title>{title}</title>
<link rel="icon" href="{icon}">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#layers">Skip to the layers</a>
<header class="top">
<nav aria-label="Parts of the page"><span class="brand">npas</span>
<a href="#budget">Budget</a>{changes_link}<a href="#banks">Banks</a><a href="#layers">Layers</a>
<a href="#kept">Kept</a><a href="#words">Words</a></nav>
<fieldset class="theme" id="theme" hidden><legend class="sr">Colours</legend>
<label><input type="radio" name="theme" value="" checked><span>Auto</span></label>
<label><input type="radio" name="theme" value="light"><span>Light</span></label>
<label><input type="radio" name="theme" value="dark"><span>Dark</span></label>
</fieldset>
</header>
<main>
{head}
<noscript><p class="note">The tables of banks, layers and kept parameters are made by the script in
this page, which this browser does not run.</p></noscript>
{changes}<section id="banks" aria-labelledby="banks-title">
<h2 id="banks-title">Banks</h2>
<p class="lead">Each bank is one trained parameter that layers share. Sharing is elements generated
from it over its own. The strip shows how many layers use each part: the stronger the colour, the
more. A bank's name leads to its layers.</p>
<div id="banks-rows"></div>
</section>
<section id="layers" aria-labelledby="layers-title">
<h2 id="layers-title">Layers</h2>
<p class="lead">A bar is the layer's bank, from its first element to its last; blocks are the
<a href="#word-template">templates</a> that the weight is made of, and a bar of thin lines is a
weight <a href="#word-upsampled">larger than its bank</a>.<span class="screen"> Point at a layer,
or move with the arrow keys (right and left unfold and fold a row of several): the band marks the
elements that it uses in the other bars of its bank. Enter or a click pins a layer, Escape lets it
go; the address then leads back to it.</span></p>
<div class="tools" id="layers-tools" role="search" aria-label="Layers"></div>
<div class="split"><div id="layers-rows"></div>
<aside id="details" tabindex="0" aria-label="Details of a layer"></aside></div>
<p class="sr" id="spoken" role="status"></p>
</section>
<section id="kept" aria-labelledby="kept-title">
<h2 id="kept-title">Not allocated: kept as it is</h2>
<p class="lead">These parameters take nothing from a bank and stay as the model has them. Those that
train count against the budget.</p>
<div id="kept-rows"></div>
</section>
{words}
</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
