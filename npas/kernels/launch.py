"""A kernel launch as data: run here, or compiled ahead of time, or counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
