"""Hypothesis strategies: small random modules, budgets and planning options."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, settings, strategies as st
from torch import nn

import npas

# Modules take milliseconds to compile, which a deadline would read as an unsteady test.
PROFILE = settings(
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    # Explaining a failure runs it hundreds of times more.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
BATCH = 3
_STEPS = 4
_VOCABULARY = 11


@dataclass(frozen=True)
class Case:
    """A model that can be made again: the same values, on any device.

    Attributes:
        front: what reads the inputs (`_FRONTS`).
        width: of the vectors that the blocks pass on.
        hidden: a second size, of hidden layers and inputs.
        option: picks a variant of the front.
        blocks: names in `_BLOCKS`.
        tied_head: whether the last layer has the weight of the embedding (tokens only).
        frozen_head: whether the last layer's weight is frozen.
        seed: of the weights.
    """

    front: str
    width: int
    hidden: int
    option: int
    blocks: tuple[str, ...]
    tied_head: bool = False
    frozen_head: bool = False
    seed: int = 0

    def make(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
        """Build the model."""
        torch.manual_seed(self.seed)
        with torch.device(device):
            return _Model(self).to(dtype)

    def inputs(self, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
        """Return example inputs."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        shapes: dict[str, tuple[int, ...]] = {
            "vector": (BATCH, self.hidden),
            "image": (BATCH, _channels(self), 5, 4),
            "signal": (BATCH, _channels(self), 7),
            "sequence": (BATCH, _STEPS, self.hidden),
        }
        if self.front == "tokens":
            return (torch.randint(0, _VOCABULARY, (BATCH, _STEPS), generator=generator),)
        return (torch.randn(shapes[self.front], generator=generator).to(dtype),)


def _channels(case: Case) -> int:
    return 2 * (1 + case.hidden % 3)


class _Convolutions(nn.Module):
    """Plain, depthwise, grouped or transposed, then pointwise; the mean over positions."""

    def __init__(self, case: Case, dimensions: int) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d)[dimensions - 1]
        transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d)[dimensions - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d)[dimensions - 1]
        c = _channels(case)
        self.first: nn.Module = (
            lambda: conv(c, c, 3, padding=1),
            lambda: conv(c, 2 * c, 3, padding=1, groups=c),
            lambda: conv(c, c, 3, padding=2, dilation=2, groups=2, bias=False),
            lambda: transposed(c, c, 2, stride=2),
            lambda: transposed(c, c, 3, groups=2, padding=1),
        )[case.option % 5]()
        out = 2 * c if case.option % 5 == 1 else c
        self.norm = norm(out)
        self.last = conv(out, case.width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.norm(self.first(x)))).flatten(2).mean(dim=2)


class _Recurrent(nn.Module):
    def __init__(self, case: Case, n_in: int) -> None:
        super().__init__()
        kind = (nn.GRU, nn.LSTM)[case.option % 2]
        layers, both = 1 + case.option // 2 % 2, case.option // 4 % 2 == 1
        self.cell = kind(n_in, case.width, layers, bidirectional=both, batch_first=True)
        self.both = both

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = self.cell(x)[0][:, -1]
        if self.both:
            left, right = last.chunk(2, dim=1)
            return left + right
        return last


class _Tokens(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        padding = (None, 0, _VOCABULARY - 1)[case.option % 3]
        self.embedding = nn.Embedding(_VOCABULARY, case.width, padding_idx=padding)
        self.read = _Recurrent(case, case.width) if case.option % 2 else None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        return x.mean(dim=1) if self.read is None else self.read(x)


class _Residual(nn.Module):
    def __init__(self, d: int, m: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.up, self.down = nn.Linear(d, m), nn.Linear(m, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class _Constant(_Residual):
    """A residual branch whose last weight starts at one value everywhere."""

    def __init__(self, d: int, m: int, value: float) -> None:
        super().__init__(d, m)
        nn.init.constant_(self.down.weight, value)


class _Branches(nn.Module):
    def __init__(self, d: int, m: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(d, m, bias=False), nn.Linear(d, m)
        self.join = nn.Linear(2 * m, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join(torch.cat([self.left(x), torch.tanh(self.right(x))], dim=1))


class _Tied(nn.Module):
    """Two layers with one weight, and a layer that is called twice."""

    def __init__(self, d: int, m: int) -> None:
        super().__init__()
        self.a, self.b, self.twice = nn.Linear(d, m), nn.Linear(d, m), nn.Linear(m, m)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.twice(torch.tanh(self.twice(self.a(x) * torch.sigmoid(self.b(x)))))
        return F.linear(hidden, self.a.weight.t())


class _Raw(nn.Module):
    """Parameters of its own, functional dropout, a stack of matrices and a vector."""

    def __init__(self, d: int, m: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(m, d) / d**0.5)
        self.down = nn.Parameter(torch.randn(m, d) / m**0.5)
        self.stack = nn.Parameter(torch.randn(2, d, d) / d**0.5)
        self.shift = nn.Parameter(torch.zeros(1, d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.dropout(F.relu(F.linear(x, self.up)), 0.3, training=self.training)
        x = x + hidden.matmul(self.down)
        return torch.tanh(x @ self.stack[0]) @ self.stack[1] + self.shift


_FRONTS: dict[str, Callable[[Case], nn.Module]] = {
    "vector": lambda case: nn.Linear(case.hidden, case.width),
    "image": lambda case: _Convolutions(case, 2),
    "signal": lambda case: _Convolutions(case, 1),
    "sequence": lambda case: _Recurrent(case, case.hidden),
    "tokens": _Tokens,
}
_BLOCKS: dict[str, Callable[[int, int], nn.Module]] = {
    "plain": lambda d, m: nn.Sequential(nn.Linear(d, m), nn.ReLU(), nn.Linear(m, d)),
    "residual": _Residual,
    "zero": lambda d, m: _Constant(d, m, 0.0),
    "constant": lambda d, m: _Constant(d, m, 0.1),
    "branches": _Branches,
    "tied": _Tied,
    "raw": _Raw,
    "dropout": lambda d, m: nn.Sequential(nn.Linear(d, d), nn.Dropout(0.2)),
}


class _Model(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.front = _FRONTS[case.front](case)
        self.blocks = nn.Sequential(*(_BLOCKS[b](case.width, case.hidden) for b in case.blocks))
        self.head = nn.Linear(case.width, _VOCABULARY)
        if case.tied_head and isinstance(self.front, _Tokens):
            self.head.weight = self.front.embedding.weight
        elif case.frozen_head:
            self.head.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.front(x)))


def cases(*, zero: bool = True) -> st.SearchStrategy[Case]:
    """Draw a model; ``zero`` allows branches that start at zero."""
    blocks = [name for name in _BLOCKS if zero or name != "zero"]
    return st.builds(
        Case,
        front=st.sampled_from(list(_FRONTS)),
        width=st.integers(2, 17),
        hidden=st.integers(2, 24),
        option=st.integers(0, 7),
        blocks=st.lists(st.sampled_from(blocks), max_size=4).map(tuple),
        tied_head=st.booleans(),
        frozen_head=st.booleans(),
        seed=st.integers(0, 99),
    )


@dataclass(frozen=True)
class Large:
    """A stack of 200,000 to a million parameters, made on the meta device."""

    widths: tuple[int, ...]
    convolutional: bool

    def make(self) -> nn.Module:
        """Build the stack."""
        layers: list[nn.Module] = []
        with torch.device("meta"):
            for n_in, n_out in zip(self.widths, self.widths[1:], strict=False):
                if self.convolutional:
                    layers += [nn.Conv2d(n_in, n_out, 3, bias=False), nn.BatchNorm2d(n_out)]
                else:
                    layers.append(nn.Linear(n_in, n_out))
        return nn.Sequential(*layers)

    def options(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Return options that name layers of a `Case` for this model."""
        found = dict(drawn)
        if isinstance(found["groups"], dict):
            found["groups"] = {"0": "first", "*": "rest"}
        if "front" in (found["overrides"] or {}):
            found["overrides"] = {"0": found["overrides"]["front"]}
        return found


def large_models() -> st.SearchStrategy[Large]:
    """Draw a stack of 200,000 to a million parameters."""

    def of(convolutional: bool) -> st.SearchStrategy[Large]:
        area = 9 if convolutional else 1
        widths = st.lists(st.integers(17, 160 if convolutional else 512), min_size=4, max_size=12)
        return st.builds(Large, widths.map(tuple), st.just(convolutional)).filter(
            lambda large: (
                200_000
                <= area * sum(a * b for a, b in zip(large.widths, large.widths[1:], strict=False))
                <= 1_000_000
            )
        )

    return st.booleans().flatmap(of)


@dataclass(frozen=True)
class Ask:
    """A budget that depends on the model.

    Attributes:
        how: ``"share"`` or ``"multiple"`` of the model (text or float), ``"count"`` (an int),
            ``"least"`` (``value`` times 20 above the smallest possible) or ``"largest"``.
        value: from 0 to 1; see ``how``.
    """

    how: str
    value: float

    def of(self, model: nn.Module, **options: Any) -> str | int | float:
        """Return the budget as a user would write it."""
        dense = sum(p.numel() for p in model.parameters() if p.requires_grad)
        match self.how:
            case "share":
                return f"{1 + round(399 * self.value)}%"
            case "multiple":
                return 0.02 + 3.98 * self.value
            case "count":
                least = smallest_budget(model, **options)
                return least + int(self.value * max(0, dense - least))
            case "least":
                return smallest_budget(model, **options) + int(20 * self.value)
            case _:
                return "largest"


def smallest_budget(model: nn.Module, **options: Any) -> int:
    """Return what `npas.plan` says is the smallest budget."""
    try:
        npas.plan(model, 1, **options)
    except npas.BudgetError as error:
        if error.smallest is not None:
            return error.smallest
    return 1


def asks() -> st.SearchStrategy[Ask]:
    """Draw a budget, from the smallest possible to 400%."""
    hows = ["count", "count", "share", "multiple", "least", "largest"]
    return st.builds(Ask, st.sampled_from(hows), st.floats(0, 1, width=32))


# `head` may be frozen or tied, so that a pattern for it alone could match nothing.
_PATTERNS: list[dict[str, str]] = [
    {"front": "first", "*": "rest"},
    {"*": "all of it"},
    {"re:front.*": "1st", "*": "b.c"},
    {"front": "only"},
]


def options() -> st.SearchStrategy[dict[str, Any]]:
    """Draw keyword arguments of `npas.plan`."""
    groups = st.sampled_from(
        ["own", "single", "random", "by_shape", "repeated", "soft_sharing", "auto"]
    )
    patterns = st.sampled_from(_PATTERNS)
    k = st.one_of(st.none(), st.none(), st.integers(1, 7))
    overrides = st.sampled_from(
        [
            None,
            None,
            {"front": {"k": 2}},
            {"front": {"downsample": "avg", "upsample": "repeat"}},
            {"*": {"scale": True}},
            {"front": {"bank": "moved"}},
        ]
    )
    return st.fixed_dictionaries(
        {
            "groups": st.one_of(groups, groups, patterns),
            "k": k,
            "downsample": st.sampled_from(["wavg", "emb", "avg", "rr"]),
            "upsample": st.sampled_from(["mask", "inter", "repeat"]),
            "seed": st.integers(0, 3),
            "overrides": overrides,
        }
    )
