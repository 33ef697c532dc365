"""Tiny models of the architectures of `transformers` and inputs for them, found by rule.

No rule names an architecture. The defaults of a configuration class are shrunk, and a few variants
of that and of the inputs are tried in turn until a model builds, runs and gives a finite loss.
"""

import contextlib
import copy
import functools
import inspect
import itertools
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from benchmarks.architectures.inputs import (
    AUDIOS,
    LENGTH,
    PIXELS,
    TOKENS,
    Recipe,
    inputs,
    loss,
    tensors,
)
from benchmarks.architectures.shrink import Variant, nested, shrunk, token_ids

LIMIT = 300_000

# The first of these whose mapping holds a model type gives it its head.
TASKS = {
    "speech-seq2seq": "SPEECH_SEQ_2_SEQ",
    "image-text-to-text": "IMAGE_TEXT_TO_TEXT",
    "seq2seq-lm": "SEQ_TO_SEQ_CAUSAL_LM",
    "visual-qa": "VISUAL_QUESTION_ANSWERING",
    "zero-shot-image": "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "masked-lm": "MASKED_LM",
    "causal-lm": "CAUSAL_LM",
    "ctc": "CTC",
    "audio-classification": "AUDIO_CLASSIFICATION",
    "image-classification": "IMAGE_CLASSIFICATION",
    "video-classification": "VIDEO_CLASSIFICATION",
    "segmentation": "SEMANTIC_SEGMENTATION",
    "sequence-classification": "SEQUENCE_CLASSIFICATION",
    "base": "",
}
SIDES = ((32, 8), (64, 16), (64, 8), (128, 32), (224, 32))
VARIANTS = tuple(
    Variant(stages, *side, layers, width, keep)
    for layers, stages, side, width, keep in itertools.product(
        (2, 4), (2, 8), SIDES, (64, 32), (False, True)
    )
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings from Python or `transformers` inside."""
    from transformers import logging as theirs

    level = theirs.get_verbosity()
    disabled = logging.root.manager.disable
    theirs.set_verbosity_error()
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        theirs.set_verbosity(level)


def mapping(task: str) -> Mapping[str, Any]:
    """Class names of one head, by model type."""
    from transformers.models.auto import modeling_auto

    stem = f"MODEL_FOR_{TASKS[task]}" if TASKS[task] else "MODEL"
    return getattr(modeling_auto, f"{stem}_MAPPING_NAMES")


def task_of(model_type: str) -> str:
    """The head for a model type: the first of `TASKS` that has one."""
    return next(task for task in TASKS if model_type in mapping(task))


def head(model_type: str, task: str) -> Any:
    """The class of a head."""
    import transformers

    found = mapping(task)[model_type]
    with quiet():
        return getattr(transformers, found if isinstance(found, str) else found[0])


RECURRENT = re.compile(r"^(mamba|ssm)_|^state_size$|d_state$|^lru_width$|^linear_conv_kernel")
EXPERTS = re.compile(r"^(?!.*(shared|_per_)).*experts$|experts_num$")
SOUND = re.compile(r"^sampling_rate|mel_bins|^audio_config$|^conv_pos|feat_extract")
IMAGE = re.compile(
    r"^(image_size|img_size|(vision|backbone|image)_config|patch_size|num_channels|depths)$"
)


def family_of(model_type: str, task: str) -> str:
    """The family of a model type, by its head and the fields of its configuration."""
    from transformers import CONFIG_MAPPING

    with quiet():
        top = CONFIG_MAPPING[model_type]().to_dict()
    found = {k: v for part in nested(top) for k, v in part.items()}
    seen, heard = any(map(IMAGE.search, top)), any(map(SOUND.search, found))
    if task in ("image-classification", "video-classification", "segmentation"):
        return "vision"
    if task in ("speech-seq2seq", "ctc", "audio-classification"):
        return "speech"
    if task in ("image-text-to-text", "visual-qa", "zero-shot-image") or (
        seen and ("text_config" in top or "vocab_size" in top)
    ):
        return "multimodal"
    if any(map(RECURRENT.search, found)):
        return "state-space"
    if any(type(v) is int and v > 1 and EXPERTS.search(k) for k, v in found.items()):
        return "mixture of experts"
    if heard or seen:
        return "speech" if heard else "vision"
    if task == "seq2seq-lm":
        return "encoder-decoder"
    return "decoder" if task == "causal-lm" else "encoder"


def configuration(model_type: str, variant: Variant, made: Any) -> Any:
    """The configuration of a head: a model type's defaults, shrunk.

    Args:
        model_type: Its name in `transformers`.
        variant: How to shrink it.
        made: The class of the head.

    Returns:
        The configuration, or the one in it that the head is for.
    """
    from transformers import CONFIG_MAPPING

    whole = CONFIG_MAPPING[model_type]()
    whole = _rebuilt(whole, variant, token_ids(whole.to_dict()))
    parts = list(vars(whole).values())
    return next((c for c in [whole, *parts] if isinstance(c, made.config_class)), whole)


def _rebuilt(made: Any, variant: Variant, ids: dict[int, int]) -> Any:
    values = made.to_dict()
    known = {field.name: field.default for field in fields(made)}
    other = {stored: name for name, stored in made.attribute_map.items() if name in known}
    values = {other.get(k, k) if k not in known else k: v for k, v in values.items()}
    computed = {k for k, v in values.items() if known.get(k, 0) is None and v is not None}
    small = shrunk(values, variant, ids, computed)
    small = {k: v for k, v in small.items() if k in known and k != "transformers_version"}
    for name in known:
        part = vars(made).get(name)
        if hasattr(part, "to_dict") and hasattr(part, "model_type"):
            small[name] = _rebuilt(part, variant, ids)
    return type(made)(**small | {"dtype": torch.float32})


def build(recipe: Recipe) -> nn.Module:
    """The model of a recipe: the same weights each time, and the generator left as it was."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = recipe.head(copy.deepcopy(recipe.config)).float().train()
    settings = getattr(model, "generation_config", None)
    starts = ("decoder_start_token_id", "bos_token_id")
    if settings is not None and all(getattr(settings, s, None) is None for s in starts):
        settings.decoder_start_token_id = 0
    return model


def make(model_type: str, task: str) -> nn.Module:
    """The tiny model of a model type and head."""
    return build(resolve(model_type, task))


def inputs_of(model_type: str, task: str, batch: int) -> dict[str, Any]:
    """The inputs of the tiny model of a model type and head."""
    return inputs(resolve(model_type, task), batch)


@functools.cache
def resolve(model_type: str, task: str) -> Recipe:
    """The first recipe of a model type that builds, runs and gives a finite loss.

    Args:
        model_type: Its name in `transformers`.
        task: Its head, out of `TASKS`.

    Returns:
        The recipe.

    Raises:
        RuntimeError: None does, with what the last tries said.
    """
    made = head(model_type, task)
    said: list[str] = []
    names = inspect.signature(made.forward).parameters
    pixels = PIXELS if "pixel_values" in names else ("",)
    audio = "input_features" in names or ("input_values" in names and "bbox" not in names)
    audios = AUDIOS if audio else ("",)
    layouts = list(
        itertools.product(
            (True, False) if "labels" in names else (False,), pixels, audios, (LENGTH, 64)
        )
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for variant in VARIANTS:
            try:
                config = configuration(model_type, variant, made)
                with torch.device("meta"):
                    size = sum(p.numel() for p in made(copy.deepcopy(config)).parameters())
                if size > LIMIT:
                    raise ValueError(f"{size} parameters")
                plain = Recipe(made, config, task, variant)
                model = build(plain)
            except Exception as error:
                said.append(f"{type(error).__name__}: {str(error)[:200]}")
                continue
            for labelled, image, sound, length in layouts:
                recipe = replace(plain, pixels=image, audio=sound, labelled=labelled, length=length)
                try:
                    recipe = replace(recipe, soft=_soft_tokens(model, recipe))
                    if torch.isfinite(loss(model(**inputs(recipe, 2)))):
                        return recipe
                    said.append("loss not finite")
                except Exception as error:
                    said.append(f"{type(error).__name__}: {str(error)[:200]}")
    raise RuntimeError(" | ".join(s for s, _ in Counter(said).most_common(4)))


def _soft_tokens(model: nn.Module, recipe: Recipe) -> int:
    """How many tokens of a text one image, or one sound, takes the place of."""
    kind = "image" if recipe.pixels else "audio"
    inner = getattr(model, "model", model)
    features = getattr(inner, f"get_{kind}_features", getattr(model, f"get_{kind}_features", None))
    if features is None or recipe.task not in TOKENS:
        return 0
    given = inputs(recipe, 2)
    names = inspect.signature(features).parameters
    wanted = {k: v for k, v in given.items() if k in names and k != "input_ids"}
    with torch.no_grad():
        found = features(**wanted)
    found = getattr(found, "pooler_output", found)
    last = next(tensors(found)).shape[-1]
    return sum(t.numel() for t in tensors(found)) // last // 2
