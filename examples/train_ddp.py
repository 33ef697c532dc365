"""Train a compiled network under DistributedDataParallel; killed, it goes on where it was.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 -m examples.train_ddp

Without the variable, processes that torchrun starts again may find the addresses of those that were
killed (pytorch#135712).
"""

import torch
from torch.nn.parallel import DistributedDataParallel

import npas
from examples.digits import DigitsNet
from examples.loop import LR, device, finish, options, start, train


def main() -> None:
    """Train on every process that torchrun started."""
    how = options(__doc__, "train_ddp")
    start()
    torch.manual_seed(0)  # on every rank: the same plan, and the same weights
    ssn = npas.compile(DigitsNet().to(device()), how.budget)
    module = DistributedDataParallel(ssn)
    optimizer = torch.optim.AdamW(npas.param_groups(ssn, weight_decay=0.05), lr=LR)
    npas.check_ranks(ssn, optimizer)
    train(module, optimizer, how)
    finish(ssn)


if __name__ == "__main__":
    main()
