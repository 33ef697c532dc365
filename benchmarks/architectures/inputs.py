"""Inputs for any model of `transformers`, by its forward's signature and its configuration."""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.architectures.shrink import VOCABULARY, Variant, nested

LENGTH = 8
TOKENS = ("speech-seq2seq", "image-text-to-text", "seq2seq-lm", "masked-lm", "causal-lm")
PIXELS = ("BCHW", "grid", "BNCHW", "B2CHW", "BTCHW", "patches")
AUDIOS = ("800", "BTF", "BFT", "3200")


@dataclass(frozen=True)
class Recipe:
    """What makes one model and its inputs.

    Args:
        head: Class of the model.
        config: Its shrunk configuration.
        task: Which head it is.
        variant: How the configuration was shrunk.
        pixels: Layout of images, or nothing where none go in.
        audio: Layout of sounds, or nothing.
        labelled: Whether labels go in.
        length: How many tokens a text has.
        soft: How many further tokens of it an image or a sound takes the place of.
    """

    head: Any
    config: Any
    task: str
    variant: Variant
    pixels: str = ""
    audio: str = ""
    labelled: bool = False
    length: int = LENGTH
    soft: int = 0


def _ids(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(VOCABULARY // 2, VOCABULARY, shape, generator=generator)


def _field(config: Any, pattern: str, default: int) -> int:
    """The first integer field whose name matches, in a configuration or those in it."""
    for part in nested(config.to_dict()):
        for name, value in part.items():
            if re.search(pattern, name):
                value = value[0] if isinstance(value, (list, tuple)) and value else value
                if type(value) is int:
                    return value
    return default


def _pixels(recipe: Recipe, batch: int, g: torch.Generator) -> dict[str, Tensor]:
    """Images in a layout, with what tells their shapes."""
    config, layout, side = recipe.config, recipe.pixels, recipe.variant.image
    side = _field(config, r"^(image_size|img_size|input_size)$", side)
    channels = _field(config, r"^(num_channels|in_channels|in_chans|num_input_channels)$", 3)
    patch = _field(config, r"^(spatial_)?patch_size$", recipe.variant.patch)
    if layout == "grid":
        cube = channels * _field(config, r"^temporal_patch_size$", 1) * patch * patch
        return {
            "pixel_values": torch.randn(batch * 16, cube, generator=g),
            "image_grid_thw": torch.tensor([[1, 4, 4]] * batch),
        }
    if layout == "patches":
        return {
            "pixel_values": torch.randn(batch, 16, channels * patch * patch, generator=g),
            "pixel_attention_mask": torch.ones(batch, 16, dtype=torch.long),
            "spatial_shapes": torch.tensor([[4, 4]] * batch),
        }
    frames = _field(config, r"frames", 4)
    middle = {"BCHW": (), "BNCHW": (1,), "B2CHW": (2,), "BTCHW": (frames,)}[layout]
    sizes = {} if layout == "BCHW" else {"image_sizes": torch.tensor([[side, side]] * batch)}
    return {"pixel_values": torch.randn(batch, *middle, channels, side, side, generator=g)} | sizes


def _sound(recipe: Recipe, batch: int, g: torch.Generator) -> Tensor:
    config = recipe.config
    if recipe.audio.isdigit():
        return torch.randn(batch, int(recipe.audio), generator=g)
    bins = _field(config, r"mel_bins|^feature_size$|n_mels|input_feat|input_dim$", 16)
    frames = _field(config, r"^max_length$", 2 * _field(config, r"max_source_positions", 16))
    shape = (batch, frames, bins) if recipe.audio == "BTF" else (batch, bins, frames)
    return torch.randn(*shape, generator=g)


def inputs(recipe: Recipe, batch: int) -> dict[str, Any]:
    """Seeded keyword inputs of a recipe's model.

    Args:
        recipe: Which model and in which layouts.
        batch: Number of examples.

    Returns:
        Keyword arguments of its forward.
    """
    g = torch.Generator().manual_seed(batch)
    config, names = recipe.config, inspect.signature(recipe.head.forward).parameters
    given: dict[str, Any] = {}
    length = recipe.length + recipe.soft
    silent = recipe.task.startswith(("image-cl", "audio", "ctc", "video"))
    if "input_ids" in names and (not silent or recipe.head.main_input_name == "input_ids"):
        given["input_ids"] = _ids(g, batch, length)
        given["attention_mask"] = torch.ones(batch, length, dtype=torch.long)
        kinds = torch.zeros(batch, length, dtype=torch.long)
        if recipe.soft:
            kind = r"^(image|media_placeholder)_token" if recipe.pixels else r"^audio_token"
            given["input_ids"][:, 1 : 1 + recipe.soft] = _field(config, kind + r"_(id|index)$", 0)
            kinds[:, 1 : 1 + recipe.soft] = 1
        given["mm_token_type_ids"] = kinds
        given["qformer_input_ids"] = _ids(g, batch, length)
    corner = torch.randint(0, 24, (batch, length, 2), generator=g)
    given["bbox"] = torch.cat([corner, corner + 8], -1)
    if recipe.pixels:
        given |= _pixels(recipe, batch, g)
    if recipe.audio:
        sound = _sound(recipe, batch, g)
        given["input_values" if "input_values" in names else "input_features"] = sound
        frames = sound.shape[-1 if recipe.audio == "BFT" else 1]
        mask = torch.ones(batch, frames, dtype=torch.long)
        given |= {"input_features_mask": mask, "feature_attention_mask": mask}
        if recipe.head.main_input_name != "input_ids":
            given.pop("attention_mask", None)
    if getattr(config, "is_encoder_decoder", False):
        given["decoder_input_ids"] = _ids(g, batch, LENGTH)
    if "past_values" in names:
        width = _field(config, r"^num_input_channels$", 1)
        given["past_values"] = torch.randn(
            batch, _field(config, r"^context_length$", 16), width, generator=g
        )
    given["return_loss"] = True
    if recipe.labelled:
        given["labels"] = _labels(recipe, {k for k in given if k in names}, given, g)
    return {name: value for name, value in given.items() if name in names}


def _labels(recipe: Recipe, taken: set[str], given: dict[str, Any], g: torch.Generator) -> Tensor:
    """Labels of the kind that a head is trained on."""
    classes = getattr(recipe.config, "num_labels", 2)
    batch = given["bbox"].shape[0]
    if recipe.task == "visual-qa":
        return torch.rand(batch, classes, generator=g)
    if recipe.task == "segmentation":
        side = given["pixel_values"].shape[-1]
        return torch.randint(0, classes, (batch, side, side), generator=g)
    if recipe.task == "ctc":
        return torch.randint(1, 32, (batch, 2), generator=g)
    if recipe.task not in TOKENS:
        return torch.randint(0, classes, (batch,), generator=g)
    if "decoder_input_ids" in taken or "input_ids" not in taken:
        return _ids(g, batch, LENGTH)
    return given["input_ids"].clone()


def tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors of an output, in order."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


def loss(outputs: Any) -> Tensor:
    """A scalar to minimise: the output's own loss, or its distance to a fixed random target."""
    own = getattr(outputs, "loss", None)
    if isinstance(own, Tensor) and own.numel() == 1:
        return own.reshape(())
    first = next(t for t in tensors(outputs) if t.numel())
    g = torch.Generator().manual_seed(0)
    target = torch.randn(first.shape, generator=g).to(first.device, first.dtype)
    return (first - target).square().mean()
