"""What the words of the page mean, for a reader who sees a plan for the first time."""

_WORDS = {
    "bank": (
        "Bank",
        "A flat parameter that layers take their weights from. It is trained; their weights are "
        "made from it. A bank that one layer fills exactly is an ordinary parameter.",
    ),
    "template": (
        "Template, window",
        "A window is a run of a bank's elements, as long as a layer's weight. In the shape of the "
        "weight it is a template. A layer's K windows begin at its base, one stride apart. Layers "
        "whose windows overlap train the same elements.",
    ),
    "coefficient": (
        "Coefficient",
        "How much of each template a layer takes: a weight is the sum of its templates times its "
        "coefficients. With <b>wavg</b> each is a number that is trained; with <b>emb</b> they are "
        "computed from a trained embedding of the layer; <b>avg</b> takes the mean and <b>rr</b> "
        "one template in turn, and neither has any.",
    ),
    "window": (
        "Made by window",
        "One template and no coefficient: the weight is a part of the bank as it is.",
    ),
    "upsampled": (
        "Made by mask, repeat or inter",
        "A weight larger than its bank takes the whole bank in tiles. With <b>mask</b> the tiles "
        "after the first are multiplied by trained masks that belong to the bank; <b>repeat</b> "
        "copies it; <b>inter</b> interpolates.",
    ),
    "shares": (
        "Shares",
        "Other layers that use some of the same elements. A change of one of them in training is a "
        "change of all.",
    ),
    "macs": (
        "MACs",
        "Multiply-accumulates. A sample takes those of the layers whatever the budget is; "
        "generation makes all weights once and is shared by the samples of a batch. The plan has "
        "those of a sample where it was made with example inputs.",
    ),
    "kept": (
        "Kept",
        "Parameters that are not allocated to a bank: biases, norms, and what cannot be shared. "
        "Frozen ones do not count against the budget.",
    ),
}


def words_html() -> str:
    """Return the section that explains the words."""
    entries = "".join(
        f'<div class="word" id="word-{key}"><dt>{title}</dt><dd>{text}</dd></div>'
        for key, (title, text) in _WORDS.items()
    )
    return f"""<section id="words" aria-labelledby="words-title">
<h2 id="words-title">Words</h2>
<dl class="words">{entries}</dl>
</section>"""
