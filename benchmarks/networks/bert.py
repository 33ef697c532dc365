"""BERT and ALBERT from transformers (``pip install npas[hf]``), as configurations without weights.

Sources: Devlin et al., "BERT", NAACL 2019, section 3; Lan et al., "ALBERT", ICLR 2020, Table 1.
The npas paper compares SSN-ALBERT with them on SQuAD (Table 2): it starts from ALBERT whose layers
each have weights of their own, here ``albert-base-unshared`` and ``albert-large-unshared``.

BERT is without its pooling layer, which SQuAD has no use for: that is how 334M is counted. ALBERT
is with it: that is how 12M and 18M are.
"""

from functools import partial

from torch import nn

from benchmarks.networks.spec import Network, scale, tokens

_TOKENS = 384  # what BERT and ALBERT read of SQuAD at once


def bert(hidden: int, n_layers: int, factor: float = 1.0) -> nn.Module:
    """Return BERT, from token ids ``[batch, tokens]`` to states ``[batch, tokens, hidden]``.

    Args:
        hidden: features of a token; there is a head of attention for every 64.
        n_layers: transformer layers.
        factor: on the features of a token and inside the layers, rounded for every head.
    """
    from transformers import BertConfig, BertModel

    heads = hidden // 64
    width = heads * scale(64, factor)
    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=n_layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    return BertModel(config, add_pooling_layer=False)


def albert(hidden: int, n_layers: int, shared: bool = True, factor: float = 1.0) -> nn.Module:
    """Return ALBERT, from token ids ``[batch, tokens]`` to states ``[batch, tokens, hidden]``.

    Args:
        hidden: features of a token; there is a head of attention for every 64.
        n_layers: transformer layers.
        shared: whether they have the same weights.
        factor: on the features of embeddings and tokens and inside the layers, rounded.
    """
    from transformers import AlbertConfig, AlbertModel

    heads = hidden // 64
    width = heads * scale(64, factor)
    config = AlbertConfig(
        embedding_size=scale(128, factor),
        hidden_size=width,
        num_hidden_layers=n_layers,
        num_hidden_groups=1 if shared else n_layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    return AlbertModel(config)


def _bert(hidden: int, n_layers: int, published: str | None, source: str) -> Network:
    return Network(
        make=partial(bert, hidden, n_layers),
        inputs=tokens(30_522, _TOKENS),
        family="bert",
        kind="transformer",
        published=published,
        source=source,
        scaled=lambda factor: bert(hidden, n_layers, factor),
        shallower=tuple(partial(bert, hidden, fewer) for fewer in range(1, n_layers)),
    )


def _albert(
    hidden: int, n_layers: int, shared: bool, published: str | None, source: str
) -> Network:
    # Fewer layers of the same weights are no smaller: they are not listed.
    fewer = () if shared else range(1, n_layers)
    return Network(
        make=partial(albert, hidden, n_layers, shared),
        inputs=tokens(30_000, _TOKENS),
        family="bert",
        kind="transformer",
        published=published,
        source=source,
        scaled=lambda factor: albert(hidden, n_layers, shared, factor),
        shallower=tuple(partial(albert, hidden, n, shared) for n in fewer),
    )


_BERT_BASE = (
    "none for this network: Devlin et al., 2019, print 110M with the heads of pretraining, and Lan "
    "et al., 2020, Table 1, print 108M, which is 108,891,648 cut"
)
_BERT_LARGE = "Lan et al., 2020, Table 1; NPAS (Plummer et al., 2022), appendix G.2"
_ALBERT = "Lan et al., 2020, Table 1; NPAS (Plummer et al., 2022), Table 2"
_UNSHARED = "none: the network that SSN-ALBERT shares the weights of is not counted in a paper"

NETWORKS: dict[str, Network] = {
    "bert-base": _bert(768, 12, None, _BERT_BASE),
    "bert-large": _bert(1024, 24, "334M", _BERT_LARGE),
    "albert-base": _albert(768, 12, True, "12M", _ALBERT),
    "albert-large": _albert(1024, 24, True, "18M", _ALBERT),
    "albert-base-unshared": _albert(768, 12, False, None, _UNSHARED),
    "albert-large-unshared": _albert(1024, 24, False, None, _UNSHARED),
}
