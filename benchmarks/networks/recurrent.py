"""A small bidirectional recurrent classifier of token sequences.

Sources: Cho et al., 2014 (GRU) and Hochreiter and Schmidhuber, 1997 (LSTM), both directions as in
Schuster and Paliwal, 1997, as PyTorch implements them.
"""

from functools import partial
from typing import Literal

from torch import Tensor, nn

from benchmarks.networks.spec import OUR_OWN, Network, scale, tokens

_CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(nn.Module):
    """See `recurrent`."""

    def __init__(
        self, vocab: int, dim: int, hidden: int, depth: int, num_classes: int, cell: str
    ) -> None:
        super().__init__()
        if cell not in _CELLS:
            raise ValueError(f"cell: got {cell!r}, must be one of {', '.join(_CELLS)}")
        self.embedding = nn.Embedding(vocab, dim)
        self.rnn = _CELLS[cell](dim, hidden, depth, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, num_classes)

    def forward(self, ids: Tensor) -> Tensor:
        states = self.rnn(self.embedding(ids))[0]
        return self.head(states.mean(1))


def recurrent(
    vocab: int = 1000,
    dim: int = 128,
    hidden: int = 128,
    depth: int = 2,
    num_classes: int = 10,
    cell: Literal["gru", "lstm"] = "gru",
) -> Recurrent:
    """Return an embedding, a bidirectional recurrent layer and a linear one on the mean state.

    Takes token ids ``[batch, tokens]`` and gives logits ``[batch, num_classes]``. The default has
    625,162 parameters, with ``cell="lstm"`` 790,026.

    Args:
        vocab: number of token ids.
        dim: features of a token.
        hidden: features of the state, in each direction.
        depth: number of recurrent layers.
        num_classes: outputs of the linear layer.
        cell: ``"gru"`` or ``"lstm"``.

    Raises:
        ValueError: ``cell`` is neither.
    """
    return Recurrent(vocab, dim, hidden, depth, num_classes, cell)


NETWORKS: dict[str, Network] = {
    "recurrent": Network(
        make=recurrent,
        inputs=tokens(1000),
        family="recurrent",
        kind="recurrent",
        source=OUR_OWN,
        scaled=lambda factor: recurrent(dim=scale(128, factor), hidden=scale(128, factor)),
        shallower=(partial(recurrent, depth=1),),
    )
}
