"""Tiny configurations of `transformers`, by rules about the names and values of their fields."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

WIDTH, HEAD, HEADS, VOCABULARY, LAYERS, SPECIAL, UNIT = 64, 16, 4, 128, 2, 16, 8
# How many of each kind that a field can count; those of `WIDTHS` where the width is `WIDTH`.
COUNTS = {"one": 1, "two": 2, "few": 4, "eight": 8, "short": 16, "long": 64}
COUNTS |= {"heads": HEADS, "layers": LAYERS, "vocabulary": VOCABULARY}
WIDTHS = {"width": WIDTH, "head": HEAD, "part": HEAD // 2, "half": WIDTH // 2, "inner": 2 * WIDTH}

# What a field counts, by its name: the first pattern found decides, and nothing keeps it.
RULES: tuple[tuple[str, str], ...] = (
    (r"coordinate_size", "part"),
    (r"shape_size", "head"),
    (r"^n_group$", "two"),
    (r"^topk_group$|^moe_topk_group", "one"),
    (r"^num_groups$", "eight"),
    (r"shape$", "eight"),
    (r"kernel|stride|dilat|ratio|rate$|temporal|merge|tubelet|factor|_types?$|d_conv", ""),
    (r"type_vocab|num_labels|num_channels|chunk_size_feed|groups?$|_group|expand|scale", ""),
    (r"image_size|img_size|input_size", "image"),
    (r"conv_pos_embeddings|num_conv_pos|source_positions", "short"),
    (r"num_(position_)?embeddings$", "long"),
    (r"vocab_size|num_embeddings|codebook_size|codevectors|buckets|entity_vocab", "vocabulary"),
    (r"position|n_ctx|max_(seq|len)|context_length|max_2d", "long"),
    (r"mm_tokens|window|block_size|chunk|local_att|attention_span|attention_chunk|clusters", "few"),
    (r"prediction_len|num_frames|max_\w*frames", "few"),
    (r"experts_per|moe_topk|moe_k$|top_?k|num_selected", "two"),
    (r"shared_experts$", "one"),
    (r"experts$|experts_num$|_experts_", "few"),
    (r"_(period|interval|freq|step|pattern)$|_every", "two"),
    (r"_offset$|first_k_dense|num_dense|first_dense|kv_shared|dense_layers", "one"),
    (r"layers?$|depths?$|blocks?$|repeats?$|layers_per|_layers_|layer_num|max_depth", "layers"),
    (r"(nope|rope|rotary)_?(head)?_?dim$", "part"),
    (r"head_?dim|head_size|d_head|d_kv|kv_channels|rank$|d_state|state_size|ssm_state", "head"),
    (r"heads?$|num_heads|heads_per|query_groups", "heads"),
    (r"moe_\w*(size|dim)|expert_\w*(size|dim)|shared_expert\w*size", "half"),
    (r"intermediate|ffn|d_ff|inner|mlp_dim|feed_?forward|ff_dim|dff|dim_ff|d_ssm|_ff$", "inner"),
    (r"mel_bins|n_mels|num_freq|feature_size|input_feat|input_dim$", "short"),
    (r"queries|query_tokens|latents|num_query|query_length|query_num|num_kernels|points", "few"),
    (r"mask_\w+_length", "two"),
    (r"hidden|width|d_model|embed|dims?$|embd|lru|_size$|channels?$|filters|planes", "width"),
)
LAYER_COUNT = re.compile(r"(layers?|depth|n_layer|num_blocks)$")
QUERY = re.compile(r"^(num_attention_heads|n_heads?|num_heads)$")
TOKEN = re.compile(r"(token_ids?|token_index|_token|begin_suppress_tokens|suppress_tokens)$")
FILLED = re.compile(r"^(head_dim|num_key_value_heads|vocab_size|\w+_per_tok|prediction_length)$")
COEFFICIENT = re.compile(r"^(depth_multiplier|(width|depth)_(coefficient|multiplier))$")
STAGES = re.compile(r"depths|hidden_sizes|embed_dims?|num_heads|conv_dim|channels|layers|dims")


@dataclass(frozen=True)
class Variant:
    """One way to make small what the names of fields alone do not decide.

    Args:
        stages: How many entries lists with one entry a stage keep.
        image: Side of an image.
        patch: Side of a patch.
        layers: Number of layers.
        width: Width of the layers.
        keep: Whether to give the fields that a class computes when they are not given, and those
            counts that are not given by default.
    """

    stages: int
    image: int
    patch: int
    layers: int = LAYERS
    width: int = WIDTH
    keep: bool = False


def nested(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A configuration's fields and those of every configuration in it, outermost first."""
    yield values
    for value in values.values():
        if isinstance(value, dict) and "model_type" in value:
            yield from nested(value)


def token_ids(values: dict[str, Any]) -> dict[int, int]:
    """Where the special tokens of a configuration go, all of them below half the vocabulary."""
    found: set[int] = set()
    for part in nested(values):
        for name, value in part.items():
            if TOKEN.search(name) or name in ("eos_token_id", "pad_token_id"):
                found.update(v for v in _flat(value) if type(v) is int)
    large = sorted(v for v in found if v >= SPECIAL)
    return {v: SPECIAL + i for i, v in enumerate(large)}


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _mapped(value: Any, ids: dict[int, int]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_mapped(v, ids) for v in value]
    return ids.get(value, value) if type(value) is int else value


def shrunk(
    values: dict[str, Any], variant: Variant, ids: dict[int, int], computed: set[str]
) -> dict[str, Any]:
    """The fields of one configuration, without those of the configurations in it.

    Args:
        values: The default fields.
        variant: What the names do not decide.
        ids: Where special tokens go.
        computed: Fields that the class computes from the others.

    Returns:
        The fields to make the class with.
    """
    counts = {v for k, v in values.items() if type(v) is int and LAYER_COUNT.search(k)}
    lists = {k: v for k, v in values.items() if isinstance(v, (list, tuple)) and v}
    per_layer = {k: v for k, v in lists.items() if len(v) in counts and len(v) > 2}
    staged = [len(v) for k, v in lists.items() if STAGES.search(k) and type(v[0]) is int]
    staged = [n for n in staged if n > 1]
    stages = max(staged, key=staged.count) if staged else 0
    per_layer = {k: v for k, v in per_layer.items() if len(v) != stages or k.endswith("types")}
    kept = _chosen(list(per_layer.values()), variant.layers)
    heads = next((v[0] for k, v in lists.items() if k.endswith("heads") and type(v[0]) is int), 1)
    result: dict[str, Any] = {}
    for name, value in values.items():
        if name in per_layer:
            value = [value[i] for i in kept if i < len(value)]
            result[name] = [_int(name, v, variant, heads, values) for v in value]
        elif (name in computed and not variant.keep) or name in (
            "stage_names",
            "out_features",
            "out_indices",
        ):
            continue
        elif TOKEN.search(name):
            wanted = value is None and variant.keep and name.startswith(("image", "audio"))
            result[name] = SPECIAL - 1 if wanted else _mapped(value, ids)
        elif name in lists:
            result[name] = _list(name, list(value), variant, heads, stages, values)
        elif type(value) is int and stages and value == stages and value > variant.stages:
            result[name] = variant.stages
        elif type(value) is int:
            result[name] = _int(name, value, variant, heads, values)
        elif isinstance(value, float) and re.search(r"layerdrop|layer_drop|mask_\w*prob", name):
            result[name] = 0.0
        elif value is None and variant.keep and FILLED.search(name):
            result[name] = _int(name, 1 << 30, variant, heads, values)
        elif isinstance(value, float) and COEFFICIENT.search(name):
            result[name] = min(value, 0.25)
        elif name == "use_cache":
            result[name] = False
        elif isinstance(value, dict) and name.startswith("rope"):
            result[name] = _rope(value, variant)
        else:
            result[name] = value
    return result


def _chosen(lists: list[Any], layers: int) -> list[int]:
    """Indexes of layers to keep, in order, each unlike the earlier ones where that can be."""
    if not lists:
        return []
    kinds: dict[str, int] = {}
    total = min(len(v) for v in lists)
    for i in range(total):
        kinds.setdefault(repr([v[i] for v in lists]), i)
    first = sorted(kinds.values())[:layers]
    spare = [i for i in range(total) if i not in first]
    return sorted(first + spare[: layers - len(first)])


def _rope(values: dict[str, Any], variant: Variant) -> dict[str, Any]:
    """Rotary parameters, with what has an entry for each of a head's frequencies cut to those."""
    part = values.get("partial_rotary_factor") or 1.0
    half = int(HEAD * variant.width // WIDTH * part) // 2
    result = dict(values)
    for name, value in values.items():
        if isinstance(value, dict):
            result[name] = _rope(value, variant)
        elif name.endswith("_factor") and isinstance(value, list):
            result[name] = value[:half]
    if variant.keep or "mrope_section" in values:
        result["mrope_section"] = [half - 2 * (half // 3), half // 3, half // 3]
    return result


def _list(
    name: str, value: list[Any], variant: Variant, heads: int, stages: int, values: dict[str, Any]
) -> list[Any]:
    if len(value) == stages:
        value = value[: variant.stages]
    elif len(value) == stages + 1 > 2:
        value = value[: variant.stages + 1]
    if re.search(r"ind(ex|ic)es|vision_feature_layer|layer_ids|indexes", name):
        top = variant.layers - 1
        near = [max(-top - 1, min(v, top)) if type(v) is int else v for v in value]
        return near if "feature_layer" in name else sorted(set(near))
    if "pinpoints" in name:
        return [[variant.image, variant.image]]
    if name.endswith("_types") and isinstance(value[0], list):
        total = sum(v[1] for v in value)
        return [[v[0], max(1, v[1] * variant.layers // total // len(v[0]))] for v in value]
    if not all(type(v) is int for v in value):
        return value
    if sum(value) == values.get("hidden_size"):
        return [v * variant.width // sum(value) for v in value]
    kind = _kind(name)
    if kind == "width" and min(value) > UNIT:
        unit = UNIT * heads
        return [max(UNIT, round(v * unit / min(value) / UNIT) * UNIT) for v in value]
    if kind == "heads" and len(set(value)) > 1:
        return value
    return [_int(name, v, variant, heads, values) for v in value]


def _kind(name: str) -> str:
    return next((kind for pattern, kind in RULES if re.search(pattern, name)), "")


def _int(name: str, value: Any, variant: Variant, heads: int, values: dict[str, Any]) -> Any:
    """An integer field made small by what its name says it counts, never larger than it is."""
    if type(value) is not int or value <= 1:
        return value
    if name == "window_size":
        if "patch_size" not in values and value <= 16:
            return value
        if "patch_size" in values and value > 4 * variant.patch:
            return 4 * variant.patch
    kind = _kind(name)
    if "patch_size" in name:
        return min(value, variant.patch)
    if kind == "image":
        return min(value, variant.image)
    if kind == "layers":
        return min(value, variant.layers)
    if kind == "width" and heads > 1 and re.search(r"embed_dim|embed_size", name):
        return UNIT * heads
    if kind in WIDTHS:
        return min(value, max(1, WIDTHS[kind] * variant.width // WIDTH))
    if kind == "heads" and re.search(r"kv|key_value|group", name):
        query = [v for k, v in values.items() if QUERY.search(k) and type(v) is int]
        return HEADS if value >= max(query, default=0) else 2
    if kind == "heads" and re.search(r"ssm|mamba|^num_heads$|^n_mamba|linear_num", name):
        expand = next((v for k, v in values.items() if k.endswith("expand")), 1)
        size = [v for k, v in values.items() if re.search(r"^(mamba_)?(d_head|head_?dim)$", k)]
        head = min([HEAD * variant.width // WIDTH, *(v for v in size if type(v) is int)])
        return int(variant.width * expand) // head
    return min(value, COUNTS.get(kind, value))
