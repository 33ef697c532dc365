import dataclasses

import pytest
import torch

from npas.coefficients import draw_coefficients
from npas.plan import LayerPlan

pytestmark = pytest.mark.pure

N = 64


def layer(name: str, first: int, k: int, n: int = N, offset: int = 0) -> LayerPlan:
    """Return a layer whose templates stand side by side from the one of index ``first`` on."""
    return LayerPlan(
        name=name,
        aliases=(),
        kind="linear",
        shape=(n // 8, 8),
        dtype="float32",
        uses=1,
        macs=None,
        padding_idx=None,
        bank="b0",
        downsample="wavg",
        upsample="mask",
        scale=False,
        base=first * n + offset,
        stride=n,
        k=k,
    )


def drawn(layers: list[LayerPlan], seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return draw_coefficients(layers)


def frame(n_layers: int, k: int, seed: int = 0) -> torch.Tensor:
    """Return the coefficients of layers that all read the same templates: [layers, k]."""
    found = drawn([layer(str(i), 0, k) for i in range(n_layers)], seed)
    return torch.stack([found[str(i)] for i in range(n_layers)])


def coherence(vectors: torch.Tensor) -> float:
    return float((vectors @ vectors.T).fill_diagonal_(0).abs().max())


def bases(n_layers: int, k: int, seed: int) -> torch.Tensor:
    """Return what independent random orthonormal bases give."""
    torch.manual_seed(seed)
    drawn = [torch.nn.init.orthogonal_(torch.empty(k, k)) for _ in range(-(-n_layers // k))]
    return torch.cat(drawn)[:n_layers]


@pytest.mark.parametrize("k", [2, 3, 4, 8, 40])
def test_orthogonal_where_no_more_layers_meet_than_there_are_templates(k: int) -> None:
    for n_layers in {1, 2, k - 1, k} - {0}:
        found = frame(n_layers, k)
        torch.testing.assert_close(found @ found.T, torch.eye(n_layers), rtol=0, atol=1e-6)


# The best that can be: the Welch bound where an equiangular tight frame exists; else what is known.
@pytest.mark.parametrize(
    ("n_layers", "k", "best"),
    [(3, 2, 0.5), (5, 4, 0.25), (6, 3, 5**-0.5), (10, 5, 1 / 3), (28, 7, 1 / 3), (12, 4, 0.5)],
)
def test_spread_as_evenly_as_lines_can_be(n_layers: int, k: int, best: float) -> None:
    found = frame(n_layers, k)
    assert coherence(found) < best + 0.01
    assert coherence(found) < coherence(bases(n_layers, k, 0)) - 0.1


@pytest.mark.parametrize(("n_layers", "k"), [(6, 4), (16, 4), (20, 12), (40, 8), (64, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_less_coherent_than_random_bases_and_tight(n_layers: int, k: int, seed: int) -> None:
    found = frame(n_layers, k, seed)
    assert coherence(found) < coherence(bases(n_layers, k, seed)) - 0.1
    torch.testing.assert_close(found.norm(dim=1), torch.ones(n_layers))
    shares = torch.linalg.eigvalsh(found.T @ found) * k / n_layers
    assert float((shares - 1).abs().max()) < 0.02


def test_many_layers_are_whole_bases() -> None:
    found = frame(1000, 4)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(1000))
    torch.testing.assert_close(found.T @ found, 250 * torch.eye(4), rtol=0, atol=0.01)
    assert coherence(found) < 0.99999, "no two layers start the same"


def test_windows_that_overlap_are_orthogonal_over_what_they_share() -> None:
    # A bank of eight templates: windows of four, that share two with the next.
    layers = [layer(f"{i}.{first}", first, 4) for i in range(2) for first in (0, 2, 4)]
    found = drawn(layers)
    table = torch.zeros(len(layers), 8)
    for row, one in zip(table, layers, strict=True):
        first = one.base // N
        row[first : first + 4] = found[one.name]
    torch.testing.assert_close(table @ table.T, torch.eye(len(layers)), rtol=0, atol=1e-6)


def test_layers_of_fewer_templates_among_others() -> None:
    layers = [layer("a", 0, 4), layer("b", 0, 2), layer("c", 0, 4), layer("d", 0, 2)]
    found = drawn(layers)
    assert {name: len(alpha) for name, alpha in found.items()} == {"a": 4, "b": 2, "c": 4, "d": 2}
    table = torch.stack([torch.cat([found[n], torch.zeros(4 - len(found[n]))]) for n in "abcd"])
    torch.testing.assert_close(table @ table.T, torch.eye(4), rtol=0, atol=1e-6)


def test_layers_that_read_other_templates_or_have_no_coefficients() -> None:
    # Another size, another place between the templates, another window: nothing to be orthogonal
    # to; each is drawn by itself.
    layers = [layer("a", 0, 2), layer("b", 0, 2, n=32), layer("c", 0, 2, offset=16)]
    layers += [layer("d", 2, 2), layer("e", 0, 1)]
    layers += [dataclasses.replace(layer("f", 0, 2), downsample="avg")]
    found = drawn(layers)
    assert list(found) == ["a", "d", "b", "c"]
    assert len({tuple(alpha.tolist()) for alpha in found.values()}) == 4


def test_the_same_seed_draws_the_same() -> None:
    assert torch.equal(frame(9, 4, seed=3), frame(9, 4, seed=3))
    assert not torch.equal(frame(9, 4, seed=3), frame(9, 4, seed=4))
