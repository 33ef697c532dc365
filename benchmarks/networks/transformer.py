"""A small pre-norm transformer over tokens.

Sources: Vaswani et al., "Attention Is All You Need", 2017, for the layers; Xiong et al., "On Layer
Normalization in the Transformer Architecture", 2020, for the norm before each of them; learned
positions, GELU and the hidden layer of 4 x dim as in GPT-2 (Radford et al., 2019).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.spec import OUR_OWN, Network, scale, tokens


class Attention(nn.Module):
    """Multi-head self-attention whose four projections are separate linear layers."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        # [batch, tokens, dim] -> [batch, heads, tokens, dim / heads]
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(h.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a GELU network of 4 x dim, each normed before and added to its input."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, causal)
        self.norm2 = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 4 * dim)
        self.down = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """See `transformer`."""

    def __init__(
        self, vocab: int, dim: int, depth: int, heads: int, max_len: int, causal: bool
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads: got {heads}, must divide dim, which is {dim}")
        self.embedding = nn.Embedding(vocab, dim)
        self.positions = nn.Parameter(torch.empty(max_len, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, causal) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab)
        nn.init.normal_(self.positions, std=0.02)  # a raw parameter has no default; GPT-2's is 0.02

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions[: ids.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def transformer(
    vocab: int = 1000,
    dim: int = 128,
    depth: int = 4,
    heads: int = 4,
    max_len: int = 128,
    causal: bool = True,
) -> Transformer:
    """Return a transformer from token ids ``[batch, tokens]`` to logits ``[batch, tokens, vocab]``.

    The default has 1,066,728 parameters. Embedding and head are not tied. The positions are a
    raw parameter, so that the network has a weight which belongs to no layer. It is symbolically
    traceable by torch.fx, with batch and sequence left open.

    Args:
        vocab: number of token ids, of the input and of the output.
        dim: features of a token; ``heads`` must divide it.
        depth: number of blocks.
        heads: attention heads of each block.
        max_len: longest sequence, in tokens.
        causal: a decoder, where a token sees only those before it; otherwise an encoder.

    Raises:
        ValueError: ``heads`` does not divide ``dim``.
    """
    return Transformer(vocab, dim, depth, heads, max_len, causal)


NETWORKS: dict[str, Network] = {
    "transformer": Network(
        make=transformer,
        inputs=tokens(1000),
        family="transformer",
        kind="transformer",
        source=OUR_OWN,
        # The width of a head, so that four heads go on dividing the dimension.
        scaled=lambda factor: transformer(dim=4 * scale(32, factor)),
        shallower=tuple(partial(transformer, depth=depth) for depth in (1, 2, 3)),
    )
}
