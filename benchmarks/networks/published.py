"""Parameter counts as papers print them: what they say, and those that are not met.

A printed number carries its rounding: "36.5M" says between 36.45 and 36.55 million.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}


def matches(count: int, printed: str) -> bool:
    """Tell whether a count rounds to a printed number, at its last printed digit.

    Args:
        count: parameters or multiply-accumulates.
        printed: digits and a unit, such as ``"36.5M"``, ``"853K"`` or ``"0.39B"``.

    Raises:
        ValueError: ``printed`` is not of this form.
    """
    unit = _UNITS.get(printed[-1:])
    if unit is None or not printed[:-1].replace(".", "", 1).isdecimal():
        raise ValueError(f"printed={printed!r} must be digits and one of {', '.join(_UNITS)}")
    number = Decimal(printed[:-1])
    return (Decimal(count) / unit).quantize(number, ROUND_HALF_UP) == number


@dataclass(frozen=True, slots=True)
class Printed:
    """A number that some paper prints for a network.

    Attributes:
        network: a name of the registry.
        number: as printed, in the form of `matches`.
        source: paper and table.
        why_not: why the network's count does not round to it; empty where it does.
    """

    network: str
    number: str
    source: str
    why_not: str = ""


_NPAS = "NPAS (Plummer et al., 2022)"

#: Numbers beside `Network.published`, those of the npas paper first of all.
ALSO_PRINTED: tuple[Printed, ...] = (
    Printed("wrn-28-10", "36M", f"{_NPAS}, Tables 8, 10 and 14"),
    Printed("wrn-40-1", "0.563M", f"{_NPAS}, Table 11, from Ha et al., 2016", "cut, not rounded"),
    Printed(
        "wrn-40-2",
        "2.236M",
        f"{_NPAS}, Table 11, from Ha et al., 2016",
        "it is the kernels of the blocks alone, without the stem, the norms and the head",
    ),
    Printed("embnet", "6M", f"{_NPAS}, Table 10", "cut, not rounded; Table 8 has 7M"),
    Printed("bert-base", "108M", "Lan et al., 2020, Table 1", "cut, not rounded"),
    Printed(
        "bert-base",
        "110M",
        "Devlin et al., 2019, section 3",
        "the pooling layer and the heads of pretraining count: with them it has 110.1M",
    ),
    Printed(
        "bert-large",
        "340M",
        "Devlin et al., 2019, section 3",
        "two digits of what it has with its pooling layer and the heads of pretraining: 336.2M",
    ),
)
