from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from npas.errors import NpasError
from npas.structures import flatten, rebuild

pytestmark = pytest.mark.pure

Pair = namedtuple("Pair", ["a", "b"])


@dataclass
class Result:
    y: torch.Tensor
    kept: list[Any] = field(default_factory=list)
    made: torch.Tensor | None = field(default=None, init=False)


class Cache:
    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = list(tensors)
        self.note = object


def tensors(n: int) -> list[torch.Tensor]:
    return [torch.full((2,), float(i)) for i in range(n)]


def test_what_is_flattened_is_put_together_again() -> None:
    a, b, c = tensors(3)
    value = {"x": [a, (b, None)], "n": 3, "pair": Pair(c, "text"), "o": OrderedDict(z=a)}
    flat, structure = flatten(value)
    assert [id(t) for t in flat] == [id(a), id(b), id(c), id(a)]
    new = tensors(4)
    found = rebuild(new, structure)
    assert found["x"][0] is new[0] and found["x"][1] == (new[1], None)
    assert found["n"] == 3 and found["pair"] == Pair(new[2], "text")
    assert type(found["o"]) is OrderedDict and found["o"]["z"] is new[3]


def test_dataclasses_by_their_fields() -> None:
    a, b = tensors(2)
    value = Result(a, [1, b])
    value.made = b
    flat, structure = flatten(value)
    assert len(flat) == 3
    found = rebuild(flat, structure)
    assert isinstance(found, Result)
    assert found.y is a and found.kept == [1, b] and found.made is b


def test_equal_structures_are_equal_and_others_are_not() -> None:
    a, b = tensors(2)
    assert flatten({"x": a})[1] == flatten({"x": b})[1]
    for other in ({"y": a}, [a], {"x": a, "n": 1}, {"x": 1}, {"x": None}):
        assert flatten({"x": a})[1] != flatten(other)[1]
    assert flatten((a, 1))[1] != flatten((a, True))[1]
    assert flatten((a, 1))[1] != flatten((a, 1.0))[1]


def test_other_objects_are_refused_or_taken_apart() -> None:
    a, b = tensors(2)
    with pytest.raises(NpasError, match="an object of type Cache"):
        flatten([Cache(a, b)])
    flat, structure = flatten([Cache(a, b)], objects=True)
    assert [id(t) for t in flat] == [id(a), id(b)]
    (found,) = rebuild([b, a], structure)
    assert isinstance(found, Cache) and found.tensors[0] is b and found.note is object


def test_an_object_without_tensors_is_a_constant_of_a_result() -> None:
    thing = object()
    flat, structure = flatten([thing], objects=True)
    assert flat == [] and rebuild([], structure)[0] is thing


def test_an_object_that_holds_itself() -> None:
    cache = Cache(*tensors(1))
    cache.note = cache  # type: ignore[assignment]
    with pytest.raises(NpasError):
        flatten(cache, objects=True)
