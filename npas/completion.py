"""Scripts that complete the ``npas`` command in a shell, made from its parser by shtab.

The script is static: a shell that completes starts no Python, which would import PyTorch each time
that the key is pressed.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from npas.errors import NpasError
from npas.passes.mapping import STRATEGIES
from npas.plan import DOWNSAMPLE, UPSAMPLE
from npas.searching.bank import METHODS

#: What ``--print-completion`` takes.
SHELLS = ("bash", "fish", "zsh")

#: Arguments whose value is any file or folder.
FILES = frozenset({"after", "against", "before", "checkpoint", "out", "plan", "plot"})

#: Arguments, of one command where it is named, whose value is one of these words, or a file of this
#: suffix where there is one.
WORDS: dict[str, tuple[tuple[str, ...], str]] = {
    "downsample": (DOWNSAMPLE, ""),
    "groups": (tuple(name for name in STRATEGIES if name != "fit"), ".json"),
    "method": (METHODS, ""),
    "model": (("timm:", "torchvision:", "hf:"), ".py"),
    "script": ((), ".py"),
    "search groups": (("auto",), ""),
    "upsample": (UPSAMPLE, ""),
}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes a parser's commands, options, words and files.

    Args:
        parser: of the command. It is changed: what it parses afterwards means nothing.
        shell: one of `SHELLS`.

    Raises:
        NpasError: if shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise NpasError("--print-completion needs shtab: pip install 'npas[completion]'") from error
    for command, action in arguments(parser):
        if action.dest in FILES:
            _complete(action, shtab.FILE)
        for name in (f"{command} {action.dest}", action.dest):
            if name in WORDS:
                _complete(action, _words(name, *WORDS[name]))
                break
    return shtab.complete(parser, shell)


def arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Yield each argument of a parser's commands, with the command's name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from ((name, argument) for argument in command._actions)


def _complete(action: argparse.Action, values: Mapping[str, Any]) -> None:
    # The attribute that shtab looks for.
    vars(action)["complete"] = values


def _words(name: str, words: tuple[str, ...], suffix: str) -> dict[str, Any]:
    """Return what shtab calls for these words and, with a suffix, files that end in it."""
    listed = " ".join(words)
    # shtab escapes what it completes as names of files where the function's name has _file.
    function = f"_npas_{name.replace(' ', '_')}{'_file' if suffix else ''}"
    bash = [f'compgen -W "{listed}" -- "$1"'] if words else []
    zsh = [f"'words:word:({listed})'"] if words else []
    fish = [f"printf '%s\\n' {listed}"] if words else []
    if suffix:
        bash += [f'compgen -f -X "!*{suffix}" -- "$1"', 'compgen -d -- "$1"']
        zsh.append(f"'files:file:_files -g \"*{suffix}\"'")
        fish.append(f"__fish_complete_suffix {suffix}")
    return {
        "bash": function,
        "fish": f"({function})",
        "zsh": function,
        "preamble": {
            "bash": "\n".join((f"{function}() {{", *bash, "}")),
            "fish": "\n".join((f"function {function}", *fish, "end")),
            "zsh": f"{function}() {{\n_alternative {' '.join(zsh)}\n}}",
        },
    }
