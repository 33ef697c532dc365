"""Small text classifiers: encoders of equal layers, which is where ALBERT's sharing is at home.

Sources: Vaswani et al., "Attention Is All You Need", 2017, for the layers; Xiong et al., "On Layer
Normalization in the Transformer Architecture", 2020, for the norm before each of them; Lan et al.,
"ALBERT", ICLR 2020, section 3.1, for the factorised embedding, which keeps most of the parameters
in the layers; learned positions and GELU as in BERT (Devlin et al., 2019).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.spec import OUR_OWN, Network, scale, tokens

#: The token id that is no word: nothing depends on how many of them follow a text.
PADDING = 0
_EMBEDDING = 32


class Layer(nn.Module):
    """Attention and a GELU network of 4 x dim, each normed before and added to its input."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 4 * dim)
        self.down = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        # x: [batch, tokens, dim]; seen: [batch, 1, 1, tokens], False where there is padding.
        h = self.norm1(x)
        # [batch, tokens, dim] -> [batch, heads, tokens, dim / heads]
        q = self.q(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = self.k(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = self.v(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """See `encoder`."""

    def __init__(
        self,
        vocab: int,
        n_classes: int,
        length: int,
        depth: int,
        dim: int,
        heads: int,
        embedding: int,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, embedding)
        self.project = nn.Linear(embedding, dim)
        self.positions = nn.Parameter(torch.empty(length, dim))
        self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, n_classes)
        # As in BERT. With PyTorch's 1 for embeddings the 4 x 96 network had 59% of the validation
        # definitions right after five epochs, with 0.02 68% (one run each).
        for weight in (self.embedding.weight, self.positions):
            nn.init.normal_(weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        known = ids != PADDING
        seen = known[:, None, None, :]
        x = self.project(self.embedding(ids)) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, seen)
        weights = known.unsqueeze(-1).to(x.dtype)
        pooled = (self.norm(x) * weights).sum(1) / weights.sum(1).clamp(min=1)
        return self.head(pooled)


def encoder(
    vocab: int,
    n_classes: int,
    length: int,
    depth: int,
    head_dim: int,
    heads: int = 4,
    factor: float = 1.0,
) -> Encoder:
    """Return an encoder from token ids [batch, tokens] int64 to logits [batch, n_classes].

    Token id 0 is padding: no token attends to it, and the mean over tokens leaves it out.

    Args:
        vocab: token ids.
        n_classes: outputs.
        length: most tokens of a text.
        depth: layers, all of one shape.
        head_dim: features of a head of attention; a token has ``heads`` times as many.
        heads: of each layer.
        factor: on the features of embeddings and tokens and inside the layers, rounded.
    """
    dim = heads * scale(head_dim, factor)
    return Encoder(vocab, n_classes, length, depth, dim, heads, scale(_EMBEDDING, factor))


def _network(vocab: int, n_classes: int, length: int, depth: int, head_dim: int) -> Network:
    make = partial(encoder, vocab, n_classes, length)
    return Network(
        make=partial(make, depth, head_dim),
        inputs=tokens(vocab, length),
        family="text_networks",
        kind="transformer",
        source=OUR_OWN,
        scaled=lambda factor: make(depth, head_dim, factor=factor),
        shallower=tuple(partial(make, fewer, head_dim) for fewer in range(1, depth)),
    )


#: name -> network; ``encoder-4x96`` has 4 layers of 96 features.
NETWORKS: dict[str, Network] = {
    f"encoder-{depth}x{4 * head_dim}-{data}": _network(vocab, n_classes, length, depth, head_dim)
    for data, vocab, n_classes, length in (("gloss", 8_000, 45, 16), ("vader", 4_000, 2, 32))
    for depth, head_dim in ((4, 24), (6, 20), (12, 16))
} | {"encoder-tiny-digits": _network(19, 10, 64, 2, 4)}
