"""Writes the page of the command line from the parser itself, when the site is built."""

import argparse
from functools import partial
from typing import Any

from npas.cli import _parser

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark in a page with a section for each command (called by mkdocs)."""
    return markdown.replace(MARK, reference(_parser())) if MARK in markdown else markdown


def reference(parser: argparse.ArgumentParser) -> str:
    """Return Markdown: usage and a table of arguments for each command of a parser."""
    found = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in found._choices_actions}
    return "\n\n".join(
        _section(name, helps[name], command) for name, command in found.choices.items()
    )


def _section(name: str, text: str, command: argparse.ArgumentParser) -> str:
    rows = [
        f"| {_names(action)} | {_cell(action)} | {_default(action)} |"
        for action in command._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    # By default as wide as the terminal that builds the site.
    command.formatter_class = partial(argparse.HelpFormatter, width=88)
    usage = command.format_usage().removeprefix("usage: ").rstrip()
    table = ["| argument | what it is | default |", "| --- | --- | --- |", *rows]
    return "\n".join(
        [
            f"## npas {name}",
            "",
            f"{text[:1].upper()}{text[1:]}.",
            "",
            "```text",
            usage,
            "```",
            "",
            *table,
        ]
    )


def _names(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        optional = " (optional)" if action.nargs == "?" else ""
        return f"`{value if action.metavar else action.dest}`{optional}"
    shown = "" if action.nargs == 0 else f" {value}{' ...' if action.nargs == '+' else ''}"
    return f"`{', '.join(action.option_strings)}{shown}`"


def _cell(action: argparse.Action) -> str:
    # argparse writes a percent sign as two.
    return (action.help or "").replace("%%", "%").replace("|", "\\|")


def _default(action: argparse.Action) -> str:
    if action.required and action.option_strings:
        return "required"
    is_none = action.default is None or action.default is False or action.default == []
    return "" if is_none else f"`{action.default}`"
