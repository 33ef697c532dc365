"""Train a compiled transformer under FSDP2, from the meta device on; killed, it goes on.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 -m examples.train_fsdp2

Without the variable, processes that torchrun starts again may find the addresses of those that were
killed (pytorch#135712). No process ever holds the network as it was before it was compiled, or more
than its part of the optimizer's state.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import npas
from examples.loop import LR, Options, device, finish, options, start, train

ROWS = 8
WIDTH = 48
HEADS = 4
DEPTH = 6


class Block(nn.Module):
    """Attention and two linear layers, each behind a norm and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, rows, width] to the same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class RowsTransformer(nn.Module):
    """A transformer that reads an image of 8x8 pixels row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(ROWS, WIDTH)
        self.place = nn.Embedding(ROWS, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 1, 8, 8] images to [batch, 10] logits."""
        x = self.embed(x.squeeze(1)) + self.place.weight
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


def run(how: Options, on_step: Callable[[int], None] = lambda step: None) -> None:
    """Train on every process that torchrun started."""
    start()
    with torch.device("meta"):
        model = RowsTransformer()
    ssn = npas.compile(model, how.budget)
    mesh = init_device_mesh(device().type, (dist.get_world_size(),))
    for unit in npas.fsdp_units(ssn):
        fully_shard(unit, mesh=mesh, reshard_after_forward=False)
    ssn.to_empty(device=device())
    torch.manual_seed(0)
    npas.reset(ssn, init="reset_parameters")
    optimizer = torch.optim.AdamW(npas.param_groups(ssn, weight_decay=0.05), lr=LR)
    npas.check_ranks(ssn, optimizer)
    train(ssn, optimizer, how, on_step)
    finish(ssn)


if __name__ == "__main__":
    run(options(__doc__, "train_fsdp2"))
