"""Digits in other forms, so that every kind of task can be tried without an installation."""

from benchmarks.quality.tasks.base import Classification, Labelled
from benchmarks.quality.tasks.vision import TASKS as PICTURES
from benchmarks.sources import Sources

_LEVELS = 17  # scikit-learn's digits have intensities from 0 to 16


class DigitTokens:
    """The digits as sequences of 64 tokens, one for each pixel: 2 and its intensity."""

    def __call__(self, sources: Sources) -> Classification:
        """Return the parts of the task ``"digits"``, as token ids [n, 64]."""
        pictures = PICTURES["digits"](sources)
        low = min(float(part.x.min()) for part in pictures.parts.values())
        high = max(float(part.x.max()) for part in pictures.parts.values())
        parts = {
            name: Labelled(
                2 + ((part.x.flatten(1) - low) / (high - low) * (_LEVELS - 1)).round().long(),
                part.y,
            )
            for name, part in pictures.parts.items()
        }
        return Classification(f"{pictures.label}, as tokens", parts, pictures.n_classes)


TASKS = {"digit-tokens": DigitTokens()}
