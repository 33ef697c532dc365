"""Bytes that Triton kernels move, counted from the addresses they compute.

``TRITON_INTERPRET=1 python -m benchmarks.counting MODULE`` runs the ``CASES`` of a module in
Triton's interpreter and prints, as JSON, what each launch loads and stores by argument. A load or
store of a block counts each address once, and only where its mask is true: lanes that ask for the
same element are served by one transaction. An element that two instructions load counts twice,
since nothing says that a cache still holds it. The interpreter and the compiler cannot share a
process, so the command that compiles starts this one beside it.
"""

import argparse
import json
import os
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch

from benchmarks.kernel_cases import Case, cases_of, directions
from npas.errors import NpasError
from npas.kernels.launch import Launch


@dataclass(frozen=True, slots=True)
class Moved:
    """What one launch moves.

    Attributes:
        kernel: its name.
        loads: argument -> bytes loaded.
        stores: argument -> bytes stored.
    """

    kernel: str
    loads: dict[str, int] = field(default_factory=dict)
    stores: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes loaded and stored."""
        return sum(self.loads.values()) + sum(self.stores.values())


def count(launches: Sequence[Launch]) -> list[Moved]:
    """Run launches in the interpreter and count what each moves.

    Args:
        launches: their tensors are on the CPU, each with a storage of its own.

    Raises:
        NpasError: if a kernel reads or writes outside its arguments, or uses atomics.
    """
    found = []
    for launch in launches:
        moved = Moved(launch.name)
        with _watched(moved, launch.arguments):
            launch.run()
        found.append(moved)
    return found


@contextmanager
def _watched(moved: Moved, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Note every access that the interpreter makes, for as long as the context is open."""
    from triton.runtime.interpreter import InterpreterBuilder

    storages: dict[int, tuple[int, str]] = {}
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and value.numel():
            storage = value.untyped_storage()
            storages.setdefault(storage.data_ptr(), (storage.nbytes(), name))
    starts = sorted(storages)

    def note(into: dict[str, int], pointers: Any, mask: Any) -> None:
        active = np.broadcast_to(mask.data, pointers.data.shape)
        addresses = np.unique(pointers.data[active])
        if not len(addresses):
            return
        size = pointers.get_element_ty().primitive_bitwidth // 8
        low, high = int(addresses[0]), int(addresses[-1])
        start = starts[max(0, bisect_right(starts, low) - 1)]
        n_bytes, name = storages[start]
        if low < start or high + size > start + n_bytes:
            raise NpasError(f"{moved.kernel} reads or writes beyond the end of {name}")
        into[name] = into.get(name, 0) + len(addresses) * size

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def watched_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        note(moved.loads, ptrs, mask)
        return load(self, ptrs, mask, *rest)

    def watched_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note(moved.stores, ptrs, mask)
        return store(self, ptrs, value, mask, *rest)

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise NpasError(f"{moved.kernel} uses an atomic, so two runs need not give the same bits")

    new = {
        "create_masked_load": watched_load,
        "create_masked_store": watched_store,
        "create_atomic_rmw": refuse,
        "create_atomic_cas": refuse,
    }
    old = {name: getattr(InterpreterBuilder, name) for name in new}
    try:
        for name, method in new.items():
            setattr(InterpreterBuilder, name, method)
        yield
    finally:
        for name, method in old.items():
            setattr(InterpreterBuilder, name, method)


def key_of(case: Case, direction: str, dtype: torch.dtype) -> str:
    """Return the name of what is counted; dtypes of one size are counted once."""
    return f"{case.op} {direction}, {dtype.itemsize} bytes: {case.sample.label}"


def count_elsewhere(
    module: str, *, quick: bool = False, op: str | None = None
) -> dict[str, list[Moved]]:
    """Count the cases of a module in a process of their own.

    Args:
        module: where ``CASES`` is.
        quick: only the cases that ``--quick`` looks at.
        op: only its cases.

    Returns:
        `key_of` each case -> what each of its launches moves.
    """
    command = [sys.executable, "-m", "benchmarks.counting", module, *(["--quick"] * quick)]
    command += ["--op", op] if op else []
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return {
        key: [Moved(**moved) for moved in launches]
        for key, launches in json.loads(done.stdout).items()
    }


def main() -> None:
    """Count the cases of a module and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--op")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {}
    for case in cases_of(arguments.module, quick=arguments.quick, op=arguments.op):
        for direction, dtype in directions(case):
            key = key_of(case, direction, dtype)
            if key not in found:
                found[key] = [asdict(m) for m in count(case.countable(direction, dtype))]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
