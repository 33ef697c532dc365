"""The budget grammar: every form that is read, and every one that is refused."""

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from npas.budget import Budget, parse_budget
from npas.errors import BudgetError

pytestmark = pytest.mark.pure

N_DENSE = 1_000


def resolve(value: object, n_dense: int = N_DENSE, itemsize: int = 4) -> int | None:
    return parse_budget(value).resolve(n_dense, itemsize)


@pytest.mark.parametrize(
    ("written", "n_params"),
    [
        ("10%", 100),
        (" 10% ", 100),
        ("10 %", 100),
        ("0.1%", 1),
        ("34.7%", 347),
        ("100%", 1_000),
        ("400%", 4_000),
        ("1e1%", 100),
        ("+10%", 100),
        (0.1, 100),
        (1.0, 1_000),
        (4.0, 4_000),
        (100.0, 100_000),
        ("0.1", 100),
        (".1", 100),
        ("4.0", 4_000),
        ("4x", 4_000),
        ("4X", 4_000),
        ("0.5x", 500),
        ("2.5 x", 2_500),
        (1, 1),
        (4_000_000, 4_000_000),
        ("1", 1),
        ("4000000", 4_000_000),
        ("4,000,000", 4_000_000),
        ("4_000_000", 4_000_000),
        ("4e6", 4_000_000),
        ("4E6", 4_000_000),
        ("4e+6", 4_000_000),
        ("2.5e3", 2_500),
        ("4k", 4_000),
        ("4K", 4_000),
        ("4M", 4_000_000),
        ("4m", 4_000_000),
        ("4 M", 4_000_000),
        ("1.1M", 1_100_000),
        ("0.5M", 500_000),
        ("4G", 4_000_000_000),
        ("7B", 7_000_000_000),
        ("16KiB", 4_096),
        ("16MiB", 4_194_304),
        ("16mib", 4_194_304),
        ("1GiB", 268_435_456),
        ("16kB", 4_000),
        ("16MB", 4_000_000),
        ("1GB", 250_000_000),
        ("1.5KiB", 384),
    ],
)
def test_every_form_is_read(written: Any, n_params: int) -> None:
    assert resolve(written) == n_params


def test_float_share_of_a_thousand_is_not_rounded_below() -> None:
    # 0.1 * 1000 and 0.347 * 1000 are below the whole number in floating point.
    assert [resolve(f"{i / 10}%") for i in range(1, 1001)] == list(range(1, 1001))


@pytest.mark.parametrize(("itemsize", "n_params"), [(1, 4_096), (2, 2_048), (4, 1_024), (8, 512)])
def test_bytes_are_divided_by_the_item_size(itemsize: int, n_params: int) -> None:
    assert resolve("4KiB", itemsize=itemsize) == n_params


def test_bytes_that_do_not_divide_are_rounded_down() -> None:
    assert resolve("0.01KiB") == 2  # 10.24 bytes


@pytest.mark.parametrize("written", ["largest", " Largest ", "LARGEST"])
def test_largest_waits_for_the_mapping(written: str) -> None:
    budget = parse_budget(written)
    assert budget == Budget("largest", largest=True)
    assert budget.resolve(N_DENSE, 4) is None


@pytest.mark.parametrize("written", ["10%", " 4M ", 0.1, 4_000_000, "16MiB", "4x"])
def test_text_is_what_the_user_wrote(written: Any) -> None:
    assert parse_budget(written).text == str(written).strip()


@pytest.mark.parametrize(
    "written",
    [
        0,
        -1,
        pytest.param(-(10**400), id="-10**400"),
        0.0,
        -0.0,
        -0.5,
        math.nan,
        math.inf,
        -math.inf,
        "0",
        "0%",
        "0.0",
        "-5%",
        "-0.1",
        "-4M",
        "-1",
        "1e999",
        "-1e999",
        "1e999%",
    ],
)
def test_not_a_finite_number_above_zero(written: Any) -> None:
    with pytest.raises(BudgetError, match="must be a finite number above zero"):
        parse_budget(written)


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "abc",
        "%",
        "M",
        "ten%",
        "10%%",
        "10%x",
        "--5",
        "1..5",
        "1.2.3",
        "1e",
        "e6",
        "0x10",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "infinity",
        "1/2",
        "5 percent of it",
        "largest!",
        "smallest",
        "\u0661\u0660%",
        "½",
        "10\n20",
        "1;2",
    ],
)
def test_text_that_cannot_be_read(written: str) -> None:
    with pytest.raises(BudgetError, match=re.escape(repr(written))) as caught:
        parse_budget(written)
    assert '"10%"' in str(caught.value)  # the message teaches the grammar


@pytest.mark.parametrize(
    ("written", "unit"), [("4q", "q"), ("16TiB", "tib"), ("10 parameters", "parameters")]
)
def test_unknown_units_are_named(written: str, unit: str) -> None:
    with pytest.raises(BudgetError, match=f"unknown unit '{unit}'"):
        parse_budget(written)


@pytest.mark.parametrize(
    "written", [True, False, None, [], ["10%"], (1,), {}, {"budget": 1}, b"10%", 1j, object()]
)
def test_other_types_are_refused(written: Any) -> None:
    with pytest.raises(BudgetError, match="budget"):
        parse_budget(written)


@pytest.mark.parametrize(
    ("written", "suggested"),
    [(4_000_000.0, 4_000_000), (101.0, 101), ("4000000.0", 4_000_000), (100.5, 100)],
)
def test_a_float_above_a_hundred_suggests_the_int(written: Any, suggested: int) -> None:
    with pytest.raises(BudgetError, match=rf"write the int {suggested}\b"):
        parse_budget(written)
    assert resolve(suggested) == suggested


@pytest.mark.parametrize("written", ["0.01%", 1e-9, "1e-5x", "1B", "0.001k", "3e-320%", 5e-324])
def test_less_than_one_parameter(written: Any) -> None:
    # "1B" is a billion parameters, which the model below has fewer of: not an error here.
    if written == "1B":
        assert resolve(written) == 1_000_000_000
        return
    if written == "0.001k":
        assert resolve(written) == 1
        return
    with pytest.raises(BudgetError, match="ask for at least 1"):
        resolve(written)


@pytest.mark.parametrize("written", ["3e-3", "0.0005k", "0.001KiB"])
def test_numbers_that_round_to_nothing(written: str) -> None:
    with pytest.raises(BudgetError, match="ask for at least 1"):
        resolve(written)


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(10**400, id="10**400"),
        pytest.param("1" * 400, id="400 digits"),
        "9e307k",
        "9e307GiB",
        "1e308x",
        "1e308%",
    ],
)
def test_huge_numbers_are_read_or_refused(written: Any) -> None:
    # Either is fine, an OverflowError is not.
    try:
        found = resolve(written)
    except BudgetError:
        return
    assert found is not None and found > 2**53


def test_decimal_commas_are_not_thousands() -> None:
    # "1,5%" means 1.5% where it is written, and must never become 15%.
    for written in ("1,5%", "0,1", "12,34"):
        with pytest.raises(BudgetError, match=re.escape(written)):
            parse_budget(written)


def test_numpy_numbers() -> None:
    assert resolve(np.float64(0.1)) == 100  # a subclass of float
    with pytest.raises(BudgetError, match="int64"):
        parse_budget(np.int64(5))


@given(st.integers(1, 2**53))
def test_whole_numbers_are_exact(n: int) -> None:
    assert resolve(n) == resolve(str(n)) == resolve(f"{n:,}") == n


@given(st.text(max_size=12))
def test_no_text_crashes_the_parser(text: str) -> None:
    try:
        budget = parse_budget(text)
    except BudgetError:
        return
    assert budget.text == "largest" or budget.share or budget.n_params or budget.n_bytes is not None


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(1, 10**12))
def test_floats_resolve_or_are_refused(share: float, n_dense: int) -> None:
    try:
        found = resolve(share, n_dense)
    except BudgetError:
        return
    assert found is not None
    assert 1 <= found <= share * n_dense * (1 + 1e-9) + 1e-6


def test_rounding_gives_no_parameter_more() -> None:
    assert parse_budget("0.0049999965k").n_params == 4
    assert parse_budget("1.001G").n_params == 1_001_000_000  # 1000999999.9999999 as a float
    assert parse_budget("0.00499999999999k").n_params == 5  # within what a float has lost


def test_more_than_any_tensor_has() -> None:
    assert parse_budget(2**63 - 1).n_params == 2**63 - 1
    for text in (2**63, "1e18G", "9223372036854775808", "1e10GiB"):
        with pytest.raises(BudgetError, match="finite number above zero"):
            parse_budget(text)
    with pytest.raises(BudgetError, match="finite number above zero"):
        parse_budget("1e18x").resolve(10**6, 4)
