"""Tiny models of the architectures that others wrote, to hold npas against.

from benchmarks.architectures import architectures

for architecture in architectures("bert|llama"):
model = architecture.make()
loss = architecture.loss(model(**architecture.inputs(2)))
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from benchmarks.architectures.selected import LEFT_OUT, SELECTED

__all__ = ["LEFT_OUT", "SELECTED", "Architecture", "architectures"]


@dataclass(frozen=True)
class Architecture:
    """One architecture: how to make a tiny model of it, and what to train that on.

    Args:
        name: Its model type in `transformers` and the head, such as `bert:masked-lm`.
        family: Encoder, decoder, encoder-decoder, vision, speech, multimodal, mixture of experts
            or state-space.
        make: Makes the model, with the same weights each time, in training mode and in fp32.
        inputs: Makes the keyword inputs of so many examples, the same each time.
        loss: Makes a scalar of what the model returns.
        head: Gives the class of the model.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, Any]]
    loss: Callable[[Any], Tensor]
    head: Callable[[], Any]

    @property
    def generates(self) -> bool:
        """Whether the model can `generate`."""
        can = getattr(self.head(), "can_generate", None)
        return bool(can and can())


def architectures(pattern: str | None = None) -> list[Architecture]:
    """The architectures that build and train as tiny models, in the order of their names.

    Args:
        pattern: Only those whose name this expression is found in.

    Returns:
        The architectures. No model is built for it.
    """
    from benchmarks.architectures import transformers as made

    found: list[Architecture] = []
    for model_type in SELECTED:
        task = made.task_of(model_type)
        name = f"{model_type}:{task}"
        if pattern is None or re.search(pattern, name):
            found.append(
                Architecture(
                    name=name,
                    family=made.family_of(model_type, task),
                    make=functools.partial(made.make, model_type, task),
                    inputs=functools.partial(made.inputs_of, model_type, task),
                    loss=made.loss,
                    head=functools.partial(made.head, model_type, task),
                )
            )
    return found
