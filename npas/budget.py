"""The budget grammar: what a user may write for "this many trainable parameters"."""

import math
import re
from dataclasses import dataclass

from npas.errors import BudgetError

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_BYTES = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_NUMBER = r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)"
_GRAMMAR = (
    'write a share ("10%" or 0.1), a multiple ("4x" or 4.0), parameters (4000000, "4M", "4e6"), '
    'bytes ("16MiB") or "largest"'
)

LARGEST = "largest"


@dataclass(frozen=True, slots=True)
class Budget:
    """A parsed budget.

    Attributes:
        text: what the user wrote.
        share: of the trainable parameters of the input model, if it was a share or a multiple.
        n_params: parameters, if it was a number of parameters.
        n_bytes: bytes, if it was a size; divided by the item size of the model's parameters.
        largest: the sum over banks of the largest layer (Tables 5, 8 and 14(c) of the paper).
    """

    text: str
    share: float | None = None
    n_params: int | None = None
    n_bytes: int | None = None
    largest: bool = False

    def resolve(self, n_dense: int, itemsize: int, least: int = 1) -> int | None:
        """Return the budget in parameters, or None for ``largest``, which needs the mapping.

        Args:
            n_dense: unique trainable parameters of the input model.
            itemsize: bytes of one parameter.
            least: parameters that it must come to.

        Raises:
            BudgetError: if it comes to less, or to more than can be counted.
        """
        if self.largest:
            return None
        if self.share is not None:
            # The tolerance keeps "10%" of 1,000 at 100 where 0.1 * 1000 rounds below it.
            wanted = self.share * n_dense * (1 + 1e-12) + 1e-9
            _check_positive(wanted, self.text)
            n_params = math.floor(wanted)
        elif self.n_params is not None:
            n_params = self.n_params
        else:
            assert self.n_bytes is not None
            n_params = self.n_bytes // itemsize
        if n_params < least:
            raise BudgetError(
                f"budget {self.text} is {n_params} parameters of a model that trains {n_dense:,}; "
                f"ask for at least {least}"
            )
        return n_params


def parse_budget(value: object) -> Budget:
    """Read a budget as users write it.

    Args:
        value: a share (``"10%"``, ``0.1``), a multiple (``"4x"``, ``4.0``), parameters
            (an int, ``"4M"``, ``"4e6"``), bytes (``"16MiB"``) or ``"largest"``.

    Raises:
        BudgetError: if it is none of these, not finite, or not above zero.
    """
    match value:
        case bool() | None:
            raise BudgetError(f"budget {value!r} is not a budget; {_GRAMMAR}")
        case int():
            _check_positive(value, value)
            return Budget(str(value), n_params=value)
        case float():
            _check_positive(value, value)
            if value > 100:
                raise BudgetError(
                    f"budget {value!r} would be {value:g} times the model; for {value:,.0f} "
                    f"parameters write the int {int(value)}"
                )
            return Budget(repr(value), share=value)
        case str():
            return _parse_text(value)
        case _:
            raise BudgetError(f"budget {value!r} is a {type(value).__name__}; {_GRAMMAR}")


def _parse_text(text: str) -> Budget:
    plain = text.strip()
    if re.fullmatch(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?\D*", plain):
        plain = plain.replace(",", "")  # "1,5%" stays as it is, and is refused
    plain = plain.replace("_", "")
    if plain.lower() == LARGEST:
        return Budget(LARGEST, largest=True)
    found = re.fullmatch(rf"([+-]?){_NUMBER}\s*([a-zA-Z%]*)", plain)
    if found is None:
        raise BudgetError(f"budget {text!r} cannot be read; {_GRAMMAR}")
    sign, digits, unit = found.groups()
    number = float(sign + digits)
    _check_positive(number, text)
    unit = unit.lower()
    if unit == "%":
        number /= 100
    if unit in _SUFFIXES or unit in _BYTES:
        number *= _SUFFIXES.get(unit) or _BYTES[unit]
        _check_positive(number, text)
    if unit == "" and "." in digits and "e" not in digits.lower():
        return parse_budget(number)  # "0.1" on a command line is the float 0.1
    if unit == "%":
        return Budget(text.strip(), share=number)
    if unit == "x":
        return Budget(text.strip(), share=number)
    if unit in _SUFFIXES:
        return Budget(text.strip(), n_params=_whole(number))
    if unit in _BYTES:
        return Budget(text.strip(), n_bytes=_whole(number))
    raise BudgetError(f"budget {text!r} has the unknown unit {unit!r}; {_GRAMMAR}")


def _whole(number: float) -> int:
    # Rounded first: 1.1 * 10**6 is 1100000.0000000002, and 4.35 * 100 is 434.99999999999994.
    return math.floor(round(number, 6))


def _check_positive(number: float, shown: object) -> None:
    # 2**63 parameters are more than any tensor has, and overflow what counts them.
    if not 0 < number < 2**63:
        raise BudgetError(f"budget {shown!r} must be a finite number above zero; {_GRAMMAR}")
