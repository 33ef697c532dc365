"""The errors of npas: one root and a few children, each message with a way out."""

import torch


class NpasError(Exception):
    """Root of every error that npas raises on purpose."""


class BudgetError(NpasError):
    """A parameter budget that cannot be read or cannot be met.

    Attributes:
        smallest: the smallest usable budget in parameters, where one is known.
        largest: the largest usable budget in parameters, where one is known.
    """

    def __init__(
        self, message: str, *, smallest: int | None = None, largest: int | None = None
    ) -> None:
        """Keep the message and the bounds it states."""
        super().__init__(message)
        self.smallest = smallest
        self.largest = largest


class PlanError(NpasError):
    """A plan that is malformed, inconsistent or made for another model."""


class TraceError(NpasError):
    """A model whose forward no front end can capture."""


class CheckpointError(NpasError):
    """A saved folder that is incomplete, altered or made for another model."""


class DivergedError(NpasError):
    """A search whose loss, or what it learned, is not finite."""


class NpasWarning(UserWarning):
    """Something npas did that its user may want to change."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out: no reason to say that a model cannot be copied or captured.

    What npas does then depends on the model alone: the error goes up as it is, as it does from a
    training step.
    """
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return on_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)
