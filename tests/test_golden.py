"""Golden text: the plan table and the generated forward of three fixed networks, and what the
allocator makes of a thousand stacks of layers: no release changes a plan unnoticed.

Where a change is meant, ``pytest tests/test_golden.py --regenerate-goldens`` writes the files anew;
look at what changed before committing it.
"""

import difflib
import io
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

import npas
from npas.passes.allocate import allocate, largest, smallest
from npas.passes.demand import Demand

pytestmark = pytest.mark.pure

GOLDEN = Path(__file__).parent / "golden"


class Residual(nn.Module):
    """A residual convolutional network with batch-norm, one strided shortcut, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stages = nn.ModuleList([ResidualBlock(8, 8), ResidualBlock(8, 16), ResidualBlock(16)])
        self.norm = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        x = F.relu(self.norm(x)).mean(dim=(2, 3))
        return self.head(self.drop(x))


class ResidualBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int | None = None) -> None:
        super().__init__()
        n_out = n_out or n_in
        stride = 1 if n_in == n_out else 2
        self.norm1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv1(F.relu(self.norm1(x)))
        return self.short(x) + self.conv2(F.relu(self.norm2(branch)))


class Decoder(nn.Module):
    """Pre-norm blocks between an embedding and a head that share a weight; a graph a mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.positions = nn.Parameter(torch.full((8, 16), 0.02))
        self.blocks = nn.ModuleList([DecoderBlock() for _ in range(3)])
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class DecoderBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.norm2 = nn.LayerNorm(16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        branch = self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        x = x + F.dropout(branch, 0.1, self.training)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Recurrent(nn.Module):
    """Two LSTM layers: an opaque leaf whose weights are passed in."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 16, num_layers=2, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(ids))
        return self.head(states[:, -1])


# No case uses groups="auto": its clusters are scikit-learn's.
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, Any]]] = {
    "residual": (
        Residual,
        torch.empty(2, 3, 8, 8, device="meta"),
        {"budget": "80%", "groups": "by_shape"},
    ),
    "decoder": (
        Decoder,
        torch.empty(2, 8, dtype=torch.int64, device="meta"),
        {
            "budget": "75%",
            # As "repeated" maps, but all banks get the same share: tables are generated too.
            "groups": {f"re:.*{part}.*": part for part in ("qkv", "out", "up", "down")},
            "downsample": "emb",
            "overrides": {"blocks.0.out": {"downsample": "wavg"}},
        },
    ),
    "recurrent": (
        Recurrent,
        torch.empty(2, 7, dtype=torch.int64, device="meta"),
        {"budget": 3_000, "groups": {"lstm": "cell"}},
    ),
}


def build(name: str) -> npas.Plan:
    make, example, arguments = CASES[name]
    with torch.device("meta"):
        return npas.plan(make(), **arguments, example_inputs=(example,))


def table_text(plan: npas.Plan) -> str:
    """Return the table and the summary as plain text."""
    console = Console(file=io.StringIO(), width=132, color_system=None, legacy_windows=False)
    console.print(plan.table())
    assert isinstance(console.file, io.StringIO)
    return f"{console.file.getvalue()}\n{plan.summary()}\n"


def code_text(name: str, plan: npas.Plan) -> str:
    """Return the forward in training, and what differs from it in evaluation."""
    torch.manual_seed(0)
    ssn = npas.compile(CASES[name][0](), plan=plan)
    train = ssn.train().code.strip()
    evaluate = ssn.eval().code.strip()
    differs = [
        line
        for line in difflib.ndiff(train.splitlines(), evaluate.splitlines())
        if line[:2] in ("- ", "+ ")
    ]
    return "\n".join(["# training", train, "", "# evaluation", *(differs or ["the same"])])


def stack(seed: int) -> tuple[list[Demand], int]:
    """Return layers and a budget, drawn by `random.random`: the same on every Python and NumPy."""
    draw = random.Random(seed).random

    def one_of(*values: Any) -> Any:
        return values[int(draw() * len(values))]

    n_layers, n_banks, top = 1 + int(draw() ** 2 * 40), 1 + int(draw() ** 2 * 6), one_of(4, 8, 13)
    sizes = [int(9 * 2 ** (draw() * top)) // unit * unit + unit for unit in (1, 16, 16, 1)]
    down, up = one_of("wavg", "wavg", "emb", "avg", "rr"), one_of("mask", "mask", "inter", "repeat")
    scaled, mixed = one_of(0.0, 0.3, 1.0), draw() < 0.2
    layers = [
        Demand(
            n=one_of(*sizes) if draw() < 0.7 else int(9 * 2 ** (draw() * top)),
            bank=i if i < n_banks else int(draw() * n_banks),
            downsample=one_of("wavg", "emb", "avg", "rr") if mixed else down,
            upsample=up,
            k=one_of(1, 2, 4, 4, 9),
            scale=draw() < scaled,
        )
        for i in range(max(n_layers, n_banks))
    ]
    least, most = smallest(layers), largest(layers)
    near = int(draw() ** 2 * 300)
    share = int(sum(layer.n for layer in layers) * 2 ** (draw() * 8 - 6))
    return layers, max(least, one_of(least + near, most - near, share, share, share))


def allocations_text() -> str:
    """Return a line a stack: what is spent of what is there, and a digest of where all lies."""
    lines: list[str] = []
    for seed in range(1_000):
        layers, available = stack(seed)
        found = allocate(layers, available)
        spent = sum(bank.cost.total for bank in found)
        laid = [(bank.size, [(b.base, b.stride, b.k) for b in bank.blocks]) for bank in found]
        lines.append(
            f"{seed}: {len(layers)} layers, {len(found)} banks, "
            f"{spent:,} of {available:,}: {zlib.crc32(repr(laid).encode()):08x}"
        )
    return "\n".join(lines)


def plain(text: str) -> str:
    """Drop what editors and Git may drop too: blanks at line ends, blank lines at the ends."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def compare(path: Path, text: str, *, regenerate: bool) -> None:
    """Fail with a diff unless the file holds the text; write the file where asked to."""
    if regenerate:
        path.parent.mkdir(exist_ok=True)
        path.write_text(plain(text), encoding="utf-8", newline="\n")
        return
    if not path.is_file():
        pytest.fail(f"{path.name} is not there; write it with --regenerate-goldens")
    expected = path.read_text(encoding="utf-8")
    if plain(text) != expected:
        lines = difflib.unified_diff(
            expected.splitlines(), plain(text).splitlines(), path.name, "now", lineterm=""
        )
        pytest.fail("\n".join(lines))


@pytest.mark.parametrize("name", CASES)
def test_table(name: str, regenerate_goldens: bool) -> None:
    compare(GOLDEN / f"{name}_table.txt", table_text(build(name)), regenerate=regenerate_goldens)


@pytest.mark.parametrize("name", CASES)
def test_code(name: str, regenerate_goldens: bool) -> None:
    text = code_text(name, build(name))
    compare(GOLDEN / f"{name}_code.txt", text, regenerate=regenerate_goldens)


def test_allocations(regenerate_goldens: bool) -> None:
    compare(GOLDEN / "allocations.txt", allocations_text(), regenerate=regenerate_goldens)


def test_there_is_no_golden_without_a_test() -> None:
    expected = {f"{name}_{what}.txt" for name in CASES for what in ("table", "code")}
    expected.add("allocations.txt")
    assert {path.name for path in GOLDEN.iterdir() if path.is_file()} == expected


@pytest.mark.parametrize("name", CASES)
def test_the_text_depends_on_every_decision(name: str) -> None:
    """The broken case: less budget, another mode, or a layer left out must show."""
    make, example, arguments = CASES[name]
    plan = build(name)
    for change in (
        {"budget": plan.n_params - 8},
        {"downsample": "rr"},
        {"ignored_modules": [plan.layers[0].name]},
    ):
        with torch.device("meta"):
            other = npas.plan(make(), **{**arguments, **change}, example_inputs=(example,))
        assert plain(table_text(other)) != plain(table_text(plan)), change


def test_a_broken_graph_is_seen() -> None:
    """The broken case: two lines of the forward swapped."""
    path = GOLDEN / "recurrent_code.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    i = next(i for i, line in enumerate(lines) if "lstm" in line)
    lines[i], lines[i + 1] = lines[i + 1], lines[i]
    with pytest.raises(pytest.fail.Exception, match=path.name):
        compare(path, "\n".join(lines), regenerate=False)


def test_a_broken_number_is_seen() -> None:
    """The broken case: one element more in one bank."""
    path = GOLDEN / "residual_table.txt"
    text = path.read_text(encoding="utf-8")
    size = str(build("residual").banks[0].size)
    assert size in text
    with pytest.raises(pytest.fail.Exception, match=path.name):
        compare(path, text.replace(size, str(int(size) + 1), 1), regenerate=False)


def test_a_missing_file_fails_and_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="--regenerate-goldens"):
        compare(tmp_path / "new.txt", "text", regenerate=False)
    assert not (tmp_path / "new.txt").exists()


def test_a_file_is_written_only_when_asked(tmp_path: Path) -> None:
    compare(tmp_path / "new.txt", "text  \nmore\n\n", regenerate=True)
    assert (tmp_path / "new.txt").read_bytes() == b"text\nmore\n"
    compare(tmp_path / "new.txt", "text\nmore", regenerate=False)


def test_ci_refuses_to_regenerate(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(Path(__file__).with_name("conftest.py"))
    plugins = request.config.pluginmanager.get_plugins()
    conftest: Any = next(p for p in plugins if getattr(p, "__file__", None) == path)
    asked = SimpleNamespace(getoption=lambda name: True)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.UsageError, match="--regenerate-goldens"):
        conftest.pytest_configure(asked)
    conftest.pytest_configure(SimpleNamespace(getoption=lambda name: False))
    monkeypatch.delenv("CI")
    conftest.pytest_configure(asked)
