"""Federated averaging on scikit-learn's digits: what clients send, dense and at a budget.

    python -m examples.federated [--budget 10%] [--rounds 30]
    torchrun --standalone --nproc-per-node 2 -m examples.federated

Ten clients have images of few classes each. In a round each of half of them gets the model, trains
it on its own images, and sends it back; the server takes the mean, weighted by images (McMahan et
al., 2017). Messages are the bytes of a safetensors file with the trainable parameters and the
norms' statistics. Processes share the clients.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from safetensors.torch import load, save
from torch import Tensor, nn

import npas
from examples.digits import DigitsNet, count, data, narrower

CLIENTS = 10
#: Clients of a round.
CHOSEN = 5
#: Of the Dirichlet distribution that shares the images of a class among clients.
CONCENTRATION = 0.5
BATCH = 32
LR = 0.05


@dataclass(frozen=True, slots=True)
class Result:
    """What a model came to: its parameters, test accuracy (%), and bytes that were sent."""

    n_params: int
    accuracy: float
    message: int
    total: int


def shares(labels: Tensor, seed: int) -> list[Tensor]:
    """Return the images of each client."""
    random = np.random.default_rng(seed)
    found: list[list[int]] = [[] for _ in range(CLIENTS)]
    for label in range(10):
        own = random.permutation(np.flatnonzero(labels.numpy() == label))
        parts = random.dirichlet([CONCENTRATION] * CLIENTS).cumsum()[:-1] * len(own)
        for client, images in zip(found, np.split(own, parts.astype(int)), strict=True):
            client += images.tolist()
    return [torch.tensor(client) for client in found]


def state(module: nn.Module) -> dict[str, Tensor]:
    """Return what changes in training: parameters, and the statistics of norms."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    statistics = {n: b for n, b in module.named_buffers() if "running" in n}
    return parameters | statistics


def train(module: nn.Module, images: Tensor, labels: Tensor, seed: int) -> None:
    """Train for one epoch, as a client does."""
    module.train()
    optimizer = torch.optim.SGD(npas.param_groups(module, 1e-4), lr=LR, momentum=0.9)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    for batch in order.split(BATCH):
        if len(batch) > 1:  # a norm has no statistics of one image
            optimizer.zero_grad()
            F.cross_entropy(module(images[batch]), labels[batch]).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()


def mean(sums: dict[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """Return the weighted mean over the clients of all processes."""
    if dist.is_initialized():
        for total in (*sums.values(), weight):
            dist.all_reduce(total)
    return {name: total / weight for name, total in sums.items()}


def run(make: Callable[[], nn.Module], rounds: int, seed: int, rank: int, n: int) -> Result:
    """Train a model by federated averaging, this process its part of the clients."""
    images, labels, test_images, test_labels = data(seed)
    owned = [own for own in shares(labels, seed) if len(own) > 1]
    torch.manual_seed(seed)
    server = make()
    client = copy.deepcopy(server)  # with what is fixed, such as the gains of layers
    random = np.random.default_rng(seed)
    total = size = 0
    for turn in range(rounds):
        message = save({name: t.contiguous().clone() for name, t in state(server).items()})
        size = len(message)
        chosen = random.choice(len(owned), CHOSEN, replace=False).tolist()
        sums = {name: torch.zeros_like(tensor) for name, tensor in state(server).items()}
        weight = torch.zeros(())
        for i in chosen[rank::n]:
            receive(client, message)
            train(client, images[owned[i]], labels[owned[i]], seed=1000 * turn + i)
            answer = save({name: t.contiguous().clone() for name, t in state(client).items()})
            assert len(answer) == size
            for name, tensor in load(answer).items():
                sums[name] += len(owned[i]) * tensor
            weight += len(owned[i])
        total += 2 * size * len(chosen)
        receive(server, save(mean(sums, weight)))
    server.eval()
    with torch.no_grad():
        right = server(test_images).argmax(dim=1) == test_labels
    return Result(count(server), float(right.float().mean()) * 100, size, total)


def receive(module: nn.Module, message: bytes) -> None:
    """Set what a message has."""
    values = load(message)
    with torch.no_grad():
        for name, tensor in state(module).items():
            tensor.copy_(values[name])


def table(found: dict[str, Sequence[Result]]) -> Table:
    """Return a row a network; means over seeds."""
    made = Table(title=f"Federated averaging, {CHOSEN} of {CLIENTS} clients a round")
    for column in ("network", "parameters", "test accuracy", "a message", "sent in all"):
        made.add_column(column, justify="left" if column == "network" else "right")
    for name, results in found.items():
        accuracies = [result.accuracy for result in results]
        made.add_row(
            name,
            f"{results[0].n_params:,}",
            f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f} %"
            if len(accuracies) > 1
            else f"{accuracies[0]:.2f} %",
            f"{results[0].message:,} bytes",
            f"{results[0].total / 1e6:.1f} MB",
        )
    return made


def main() -> None:
    """Train the dense network, a narrower one, and a compiled one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="10%")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    how = parser.parse_args()
    torch.set_num_threads(1)
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    rank, n = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    n_params = count(npas.compile(DigitsNet(), how.budget))
    networks: dict[str, Callable[[], nn.Module]] = {
        "dense": DigitsNet,
        "narrower": lambda: DigitsNet(*narrower(n_params)),
        f"npas, {how.budget}": lambda: npas.compile(DigitsNet(), how.budget),
    }
    found: dict[str, Sequence[Result]] = {
        name: [run(make, how.rounds, seed, rank, n) for seed in range(how.seeds)]
        for name, make in networks.items()
    }
    if rank == 0:
        Console().print(table(found))
    if n > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
