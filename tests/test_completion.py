"""Completion scripts: what a real shell offers, and that no argument was forgotten."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from npas.cli import _parser, main
from npas.completion import FILES, SHELLS, WORDS, arguments

pytestmark = pytest.mark.pure

#: Arguments whose value nothing can be said of.
FREE = frozenset(
    {"batch", "budget", "ignored_modules", "input", "k", "kwargs", "layer", "n_banks"}
    | {"seed", "steps", "target_modules", "templates"}
)

Offers = Callable[..., list[str]]


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    pytest.importorskip("shtab", reason="needs the extra completion")
    with pytest.raises(SystemExit) as exit:
        main(["--print-completion", shell])
    assert exit.value.code == 0
    return capsys.readouterr().out


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("net.py", "plan.json", "my plan.json", "notes.txt", "nets/deep.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def bash(folder: Path, capsys: pytest.CaptureFixture[str]) -> Offers:
    """Source the script in a bash, and return what it offers for the last of these words."""
    shell = program("bash")
    (folder / ".complete").write_text(script("bash", capsys), encoding="utf-8")

    def offers(*words: str) -> list[str]:
        code = (
            'source .complete; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); '
            "$(complete -p npas | grep -o -- '-F [^ ]*' | cut -c4-); "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        command = [shell, "--norc", "-c", code, "bash", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        # Outside of a terminal there is nothing that could take its options.
        assert "compopt" in done.stderr or not done.stderr, done.stderr
        return done.stdout.splitlines()

    return offers


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("npas|", ["plan", "count", "search", "explain", "diff", "report", "check"]),
        ("npas|re", ["report"]),
        ("npas|--v", ["--version"]),
        ("npas|--print-completion|", list(SHELLS)),
        ("npas|plan|--up", ["--upsample"]),
        ("npas|plan|net|:|make|--ups", ["--upsample"]),
        ("npas|plan|net.py|--upsample|", ["mask", "inter", "repeat"]),
        ("npas|plan|net.py|--groups|by", ["by_shape"]),
        ("npas|plan|net.py|--groups|p", ["plan.json"]),
        ("npas|search|net.py|--groups|", ["auto"]),
        ("npas|search|net.py|--method|w", ["wavg"]),
        ("npas|plan|ne", ["net.py", "nets"]),
        ("npas|plan|ti", ["timm:"]),
        ("npas|diff|plan.json|my", ["my plan.json"]),
        ("npas|report|plan.json|--against|pl", ["plan.json"]),
        ("npas|check|plan.json|net", ["net.py", "nets"]),
        ("npas|plan|net.py|--budget|1", [""]),
        ("npas|plan|net.py|--seed|--", ["--seed"]),
    ],
)
def test_bash_offers(bash: Offers, words: str, offered: list[str]) -> None:
    found = bash(*words.split("|"))
    if words.endswith("--"):
        assert set(offered) < set(found)
    else:
        assert sorted(found) == sorted(offered)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("npas re", ["report"]),
        ("npas plan net.py:make --upsample ", ["inter", "mask", "repeat"]),
        ("npas explain pl", ["plan.json"]),
    ],
)
def test_fish_offers(
    folder: Path, line: str, offered: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shell = program("fish")
    (folder / "npas.fish").write_text(script("fish", capsys), encoding="utf-8")
    code = f"source npas.fish; complete -C '{line}'"
    done = subprocess.run(
        [shell, "--no-config", "-c", code],
        cwd=folder,
        env=os.environ | {"HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(text.partition("\t")[0] for text in done.stdout.splitlines()) == offered


def test_zsh_reads_its_script(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it offers needs a terminal; that it is a script with its functions does not."""
    shell = program("zsh")
    (folder / "_npas").write_text(script("zsh", capsys), encoding="utf-8")
    code = (
        "fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; "
        'print $_comps[npas]; eval "$(<_npas)"; whence -w _shtab_npas _npas_groups_file'
    )
    done = subprocess.run(
        [shell, "-f", "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    lines = ["_npas", "_shtab_npas: function", "_npas_groups_file: function"]
    assert done.stdout.splitlines() == lines and not done.stderr


def test_every_argument_is_completed_or_free() -> None:
    seen: set[str] = set()
    for command, action in arguments(_parser()):
        if action.nargs == 0:
            continue
        known = {f"{command} {action.dest}", action.dest} & (set(WORDS) | FILES)
        assert (action.dest in FREE) != bool(known), f"{command}: {action.dest}"
        seen |= known or {action.dest}
    assert seen == set(WORDS) | FILES | FREE


def test_without_shtab_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as exit:
        main(["--print-completion", "bash"])
    assert exit.value.code == 2
    assert "pip install 'npas[completion]'" in capsys.readouterr().err


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--print-completion", "csh"])
    assert exit.value.code == 2
    assert "invalid choice: 'csh'" in capsys.readouterr().err
