"""A kernel launch as data: run here, or compiled ahead of time, or counted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a Triton kernel.

    Attributes:
        kernel: the jitted function.
        grid: programs along each axis.
        arguments: its tensors and integers by name; with tensors on the meta device the launch
            can be compiled for a device that is not there, but not run.
        constants: its constexpr arguments.
        warps: warps of a program.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any] = field(default_factory=dict)
    warps: int = 4

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.kernel.__name__

    def run(self) -> None:
        """Launch it, on the current stream of the tensors' device."""
        if 0 not in self.grid:
            self.kernel[self.grid](**self.arguments, **self.constants, num_warps=self.warps)


def run_all(launches: Callable[..., list[Launch]], *arguments: Any) -> None:
    """Run what a function returns for some arguments, their tensors made contiguous.

    Args:
        launches: such as an op's ``accumulate_launches``.
        *arguments: what it takes. Tensors that are written are contiguous.
    """
    given = (a.contiguous() if isinstance(a, torch.Tensor) else a for a in arguments)
    for launch in launches(*given):
        launch.run()
