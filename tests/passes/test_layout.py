import numpy as np
import pytest
from hypothesis import given, strategies as st

from npas.passes.demand import (
    Block,
    Demand,
    bank_cost,
    covered,
    is_ordinary,
    mask_elements,
)
from npas.passes.layout import Layers, masks_of, place
from tests.passes.fuzz_allocate import mask_use

pytestmark = pytest.mark.pure


def demand(n: int, downsample: str = "wavg", k: int = 4, **options: object) -> Demand:
    return Demand(n, 0, downsample, str(options.get("upsample", "mask")), k, "scale" in options)


def count_uses(blocks: list[Block], sizes: list[int], n_bank: int) -> np.ndarray:
    uses = np.zeros(n_bank, np.int64)
    for block, n in zip(blocks, sizes, strict=True):
        if block.k == 0:
            uses += 1
        for i in range(block.k):
            window = uses[block.base + i * block.stride :][:n]
            assert len(window) == n, "out of bounds"
            window += 1
    return uses


def test_two_odd_layers_leave_nothing_dead():
    # With strides rounded up to 16, 30 of these 64 elements would be dead.
    blocks = place([demand(17), demand(17)], 64)
    assert blocks is not None and blocks == [Block(13, 17, 3), Block(0, 17, 3)]
    assert covered(blocks, [17, 17], 64)


def test_closing_layer_gets_one_more_template_at_a_smaller_stride():
    assert place([demand(1024)], 1600) == [Block(0, 576, 2)]
    assert place([demand(1024)], 2048) == [Block(0, 1024, 2)]
    assert place([demand(1024)], 4096) == [Block(0, 1024, 4)]


def test_the_other_layers_go_round_from_the_beginning():
    assert place([demand(100), demand(30, k=1)], 100) == [Block(0, 0, 1), Block(0, 0, 1)]
    assert place([demand(30, k=1), demand(100)], 160) == [Block(0, 0, 1), Block(0, 60, 2)]


def test_larger_layers_are_upsampled_from_the_whole_bank():
    blocks = place([demand(1000), demand(48), demand(100)], 96)
    assert blocks == [Block(0, 0, 0), Block(0, 48, 2), Block(0, 0, 0)]


def test_sizes_that_cannot_be_covered():
    assert place([demand(100)], 401) is None
    assert place([demand(100, "rr")], 101) is None
    assert place([demand(100, k=1), demand(100, "rr")], 200) == [Block(100, 0, 1), Block(0, 0, 1)]
    assert place([demand(100)], 250, k_limits=[2]) is None
    # 3 gaps of one whole stride do not sum to 202.
    assert place([demand(100)], 302) is None
    assert place([demand(100)], 301) == [Block(0, 67, 4)]


def test_the_end_of_the_bank_is_aligned():
    blocks = place([demand(4096), demand(2048), demand(1040), demand(9)], 10_000)
    assert blocks is not None
    assert all(b.base % 16 == 0 and b.stride % 16 == 0 for b in blocks[:3])


def test_a_stride_is_aligned_where_other_layers_cover_the_rest():
    assert place([demand(4096), demand(2048, k=1)], 8101) == [Block(5, 4000, 2), Block(0, 0, 1)]
    assert place([demand(4096), demand(5, k=1)], 8101) == [Block(5, 4000, 2), Block(0, 0, 1)]
    assert place([demand(4096), demand(4, k=1)], 8101) == [Block(0, 4005, 2), Block(0, 0, 1)]


def test_what_is_aligned() -> None:
    sizes = [1, 15, 16, 17, 1008, 1023, 1024, 1025, 1040]
    units = Layers.of([demand(n) for n in sizes]).unit.tolist()
    assert units == [1, 1, 16, 1, 16, 1, 16, 16, 16]


def test_alignment_is_given_up_near_the_most_that_can_be_covered() -> None:
    assert place([demand(1025)], 4 * 1025) == [Block(0, 1025, 4)]
    assert place([demand(1030), demand(1025)], 4 * 2055) == [
        Block(4 * 1025, 1030, 4),
        Block(0, 1025, 4),
    ]


def test_round_robin_uses_one_window():
    blocks = place([demand(32, "rr"), demand(32, "rr"), demand(32, "rr")], 96)
    assert blocks == [Block(64, 0, 1), Block(0, 0, 1), Block(32, 0, 1)]


@pytest.mark.parametrize(
    ("blocks", "right"),
    [
        ([Block(0, 17, 2), Block(30, 17, 2)], True),
        ([Block(0, 17, 2), Block(35, 12, 2)], False),  # element 34 is dead
        ([Block(0, 17, 2), Block(29, 17, 2)], False),  # so is the last
        ([Block(1, 17, 2), Block(30, 17, 2)], False),  # and the first
        ([Block(0, 17, 2), Block(31, 17, 2)], False),  # leaves the bank
        ([Block(-1, 17, 2), Block(30, 17, 2)], False),
        ([Block(0, 30, 2), Block(17, 30, 2)], False),  # templates with a gap between them
        ([Block(0, -1, 2), Block(13, 17, 3)], False),  # the second before the bank
        ([Block(0, 17, 3), Block(47, 5, 1)], True),  # the stride of one template is none
        ([Block(0, 0, 0), Block(30, 17, 2)], True),
    ],
)
def test_covered_finds_what_is_wrong(blocks: list[Block], right: bool):
    assert covered(blocks, [17, 17], 64) is right


def test_covered_finds_a_placement_that_was_broken():
    demands = [demand(17), demand(17)]
    blocks = place(demands, 64)
    assert blocks is not None and covered(blocks, [17, 17], 64)
    broken = [blocks[0], Block(blocks[1].base, blocks[1].stride, blocks[1].k - 2)]
    assert broken == [Block(13, 17, 3), Block(0, 17, 1)] and covered(broken, [17, 17], 64)
    broken[1] = Block(1, 0, 1)
    assert not covered(broken, [17, 17], 64)


def test_last_tile_of_four_elements_reads_four_mask_elements():
    # 104 elements from a bank of 20: tiles of 20, 20, 20, 20, 20 and 4.
    assert mask_elements(104, 20) == 9 * 4 + 4
    assert mask_elements(100, 20) == 9 * 4
    assert mask_elements(20, 20) == 0
    assert mask_elements(7, 3) == 3 + 1


@given(st.integers(1, 400), st.integers(1, 400))
def test_every_mask_element_is_read(n: int, n_bank: int):
    read = {
        min(9, n_bank) * (position // n_bank - 1) + position % n_bank % min(9, n_bank)
        for position in range(n_bank, n)
    }
    assert read == set(range(mask_elements(n, n_bank)))
    assert mask_elements(n, n_bank) == masks_of(np.array([n]), np.array([n_bank]))[0]
    assert max((end for _, end in mask_use(n, n_bank)), default=0) == len(read)


def test_costs_of_a_bank_by_kind():
    demands = [
        demand(64),
        demand(32, "emb"),
        demand(32, "emb", k=2),
        demand(16, "avg", scale=True),
        demand(300, scale=True),
        demand(290),
        demand(400, upsample="inter"),
    ]
    blocks = place(demands, 96)
    assert blocks is not None and [b.k for b in blocks] == [1, 3, 2, 4, 0, 0, 0]
    cost = bank_cost(demands, blocks, 96)
    assert (cost.elements, cost.coefficients, cost.embeddings) == (96, 0, 48)
    assert (cost.projection, cost.masks, cost.scales) == (75, 9 * 2 + 9, 2)
    assert cost.total == 96 + 48 + 75 + 27 + 2


def test_an_ordinary_parameter_costs_its_elements():
    demands = [demand(100, scale=True)]
    blocks = place(demands, 100)
    assert blocks is not None and blocks == [Block(0, 0, 1)] and is_ordinary([100], 100)
    assert bank_cost(demands, blocks, 100).total == 100
    assert not is_ordinary([100, 100], 100) and not is_ordinary([100], 101)


layers = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 6), st.sampled_from((1, 16))),
    min_size=1,
    max_size=6,
)


@given(layers, st.floats(0, 1))
def test_placements_cover_and_stay_inside(rows: list[tuple[int, int, int]], share: float):
    demands = [demand(n * unit, k=k) for n, k, unit in rows]
    sizes = [d.n for d in demands]
    cap = sum(d.n * d.k for d in demands)
    n_bank = max(1, round(share * cap))
    blocks = place(demands, n_bank)
    if blocks is None:
        # Only a stride that is no whole number can be in the way, by less than one a template.
        assert any(place(demands, size) for size in range(n_bank - 6, n_bank))
        return
    assert covered(blocks, sizes, n_bank) and count_uses(blocks, sizes, n_bank).min() >= 1
    for d, block in zip(demands, blocks, strict=True):
        assert block.k <= d.k and (block.k == 0) == (d.n > n_bank)
        assert (block.stride == 0) == (block.k <= 1)
    assert place(demands, cap) and place(demands, cap + 1) is None


def settled(demands: list[Demand], size: int) -> int:
    """Return what a bank of this size shrinks to."""
    layers = Layers.of(demands)
    laid = layers.settle(np.array([size]), layers.limit)
    assert covered(laid.blocks()[0], [d.n for d in demands], int(laid.size[0]))
    return int(laid.size[0])


@pytest.mark.parametrize(
    ("rows", "size", "shrunk"),
    [
        ([(100, 4)], 302, 301),
        ([(53, 6)], 271, 268),
        ([(6, 5)], 28, 26),
        ([(50, 6), (1, 1)], 254, 251),  # the limit of the other layer is its one element
        ([(50, 6), (1, 1)], 256, 256),
        # From 16 * 4096 elements a gap on, the stride that it shrinks to is aligned.
        ([(65_536, 4)], 3 * 65_536 + 2, 3 * 65_536),
        ([(65_536, 3)], 65_536 + 2 * 65_535 - 1, 65_536 + 2 * 65_520),
        ([(65_536, 3)], 65_536 + 2 * 65_535, 65_536 + 2 * 65_535),  # it need not shrink
        ([(60_001, 3)], 2 * 16 * 4096, 60_001 + 2 * 35_520),
        ([(60_000, 3)], 2 * 16 * 4096 - 1, 60_000 + 2 * 35_535),
        ([(40_000, 4)], 40_000 + 3 * 30_001 + 1, 40_000 + 3 * 30_001),
        ([(200_000, 37), (17, 1), (1, 1)], 6_402_138, 200_000 + 16 + 32 * 193_808 + 0),
    ],
)
def test_a_bank_shrinks_to_what_whole_strides_cover(
    rows: list[tuple[int, int]], size: int, shrunk: int
):
    assert settled([demand(n, k=k) for n, k in rows], size) == shrunk


small_layers = st.lists(
    st.tuples(st.integers(1, 60).filter(lambda n: n % 16), st.integers(1, 6)),
    min_size=1,
    max_size=4,
)


@given(small_layers, st.floats(0, 1))
def test_a_small_bank_shrinks_no_more_than_it_must(rows: list[tuple[int, int]], share: float):
    demands = [demand(n, k=k) for n, k in rows]
    size = max(1, round(share * sum(n * k for n, k in rows)))
    assert settled(demands, size) == next(n for n in range(size, 0, -1) if place(demands, n))


@given(
    st.sampled_from((4096, 65_536, 70_000, 70_001, 200_000)),
    st.integers(2, 40),
    st.lists(st.sampled_from((1, 3, 16, 17, 48, 100)), max_size=2),
    st.floats(0.05, 1),
)
def test_a_large_bank_shrinks_to_aligned_strides(n: int, k: int, rest: list[int], share: float):
    demands = [demand(n, k=k), *(demand(m, k=1) for m in rest)]
    size = int(share * (n * k + sum(rest)))
    shrunk = settled(demands, size)
    blocks = place(demands, shrunk)
    assert blocks is not None
    block, gaps = blocks[0], max(0, blocks[0].k - 1)
    if size >= gaps * 16 * 4096:
        assert size - shrunk < 16 * (gaps + 1)
        assert shrunk == size or block.stride % 16 == block.base % 16 == 0
    else:
        assert size - shrunk <= gaps
