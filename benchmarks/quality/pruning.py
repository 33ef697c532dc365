"""Pruning (Table 4 of the paper): HRank takes filters out of a trained network, and it is tuned.

Source: Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020, and the authors'
code (lmbxmu/HRank). A filter counts for as much as the mean rank of its feature maps, and those of
the lowest rank go. As in that code both convolutions of a residual block lose filters, and one of
the second then adds nothing to the shortcut, which stays as it is.

Different from it, all layers lose the same share, all at once, and the stem loses none: the authors
choose a share for each layer of ResNet-56, and prune and tune a layer after the other (their later
HRankPlus all at once, too).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.base import n_params
from benchmarks.quality.builds import Job
from benchmarks.quality.pruning_filters import NORMS, Kept, blocks, macs, n_left, without
from benchmarks.quality.teachers import Fit

#: Images that ranks are averaged over, as in the paper; its code takes five batches of 128.
N_IMAGES = 500


@dataclass(frozen=True, slots=True)
class Pruned:
    """A pruned network after its tuning, and what its row says besides.

    Attributes:
        module: the smaller network.
        losses: of each epoch of tuning.
        diverged: whether it did.
        fields: of the row.
    """

    module: nn.Module
    losses: list[float]
    diverged: bool
    fields: dict[str, Any]


def prune(job: Job, network: nn.Module, fit: Fit) -> Pruned:
    """Prune a trained network as the recipe says, and tune it on the job's task.

    The recipe's ``prune`` is ``"hrank"``, ``left`` the share of the parameters that may stay, such
    as ``"28.4%"``, ``finetune`` the epochs after it and ``finetune_lr`` their learning rate, which
    is not the training's: what was compiled is an ordinary network by then.

    Raises:
        ValueError: if so many parameters cannot go.
    """
    how = dict(job.recipe.how)
    assert how["prune"] == "hrank", how["prune"]
    images = _images(job)
    before = macs(network, images[:1])
    most = int(float(how["left"].rstrip("%")) / 100 * n_params(network))
    small = without(network, kept(network, ranks(network, images), most))
    recipe = replace(job.recipe, epochs=how["finetune"], lr=how["finetune_lr"])
    losses, diverged = fit(small, recipe, job.task, job.seed)
    fields = {
        "params_left": n_params(small),
        "macs": macs(small, images[:1]),
        "macs_dense": before,
        "finetune_steps": recipe.epochs * (job.task.n_train // recipe.batch),
    }
    return Pruned(small, losses, diverged, fields)


@torch.no_grad()
def ranks(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the mean rank of the feature maps of each filter: convolution -> [filters].

    Maps of a first convolution are those behind its norm, maps of a second those that the block
    returns, the shortcut included, both behind a ReLU: where the authors' code takes them. Without
    the ReLU nearly all would have full rank.

    Args:
        network: is left in test mode.
        images: [n, channels, height, width].
    """
    found: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Callable[..., None]:
        found[name] = []

        def note(_module: nn.Module, _inputs: object, maps: Tensor) -> None:
            found[name].append(torch.linalg.matrix_rank(F.relu(maps)).float())

        return note

    handles = []
    for name, block in blocks(network):
        inner = block.get_submodule(NORMS[type(block)][0])
        handles.append(inner.register_forward_hook(hook(f"{name}.conv1")))
        handles.append(block.register_forward_hook(hook(f"{name}.conv2")))
    network.eval()
    for part in images.split(100):
        network(part)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(of_parts).mean(0) for name, of_parts in found.items()}


def kept(network: nn.Module, found: Mapping[str, Tensor], most: int) -> Kept:
    """Return the filters that stay: as many as fit, the same share of each convolution.

    Args:
        network: to be pruned.
        found: convolution -> what each filter counts for.
        most: parameters that may stay.

    Raises:
        ValueError: if one filter of each convolution is more than that.
    """
    # Filters go in turn: the n-th of the m of a convolution when a share of n/m of all is gone. The
    # last one stays.
    orders = {name: values.argsort(stable=True).tolist() for name, values in found.items()}
    turns = sorted(
        ((place + 0.5) / len(order), layer, name, index)
        for layer, (name, order) in enumerate(orders.items())
        for place, index in enumerate(order[:-1])
    )
    left = {name: set(order) for name, order in orders.items()}
    for _, _, name, index in turns:
        if n_left(network, left) <= most:
            break
        left[name].remove(index)
    if (least := n_left(network, left)) > most:
        raise ValueError(f"{most} parameters may stay, one filter of each layer leaves {least}")
    return {name: torch.tensor(sorted(stay)) for name, stay in left.items()}


def _images(job: Job) -> Tensor:
    """Return training images of an epoch that is not trained on."""
    epoch = job.task.batches(job.seed, job.recipe.epochs, job.recipe.batch)
    n_batches = math.ceil(N_IMAGES / job.recipe.batch)
    return torch.cat([x for x, _ in islice(epoch, n_batches)])[:N_IMAGES]
