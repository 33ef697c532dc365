"""A multilayer perceptron of any depth."""

from collections import OrderedDict
from functools import partial

from torch import nn

from benchmarks.networks.spec import OUR_OWN, Network, features, scale


def mlp(
    depth: int, width: int = 512, in_features: int = 784, num_classes: int = 10
) -> nn.Sequential:
    """Return ``depth`` linear layers with ReLU between them, for inputs ``[..., in_features]``.

    The hidden layers after the first have one shape, so that depth alone scales the number of
    weight ops. ``mlp(4)`` has 932,362 parameters.

    Args:
        depth: number of linear layers, the last one included; at least 1.
        width: features of every hidden layer.
        in_features: features of the input.
        num_classes: features of the output.

    Raises:
        ValueError: ``depth`` is less than 1.
    """
    if depth < 1:
        raise ValueError(f"depth: got {depth}, must be at least 1")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(depth - 1):
        layers[f"linear{i}"] = nn.Linear(in_features if i == 0 else width, width)
        layers[f"relu{i}"] = nn.ReLU()
    layers["head"] = nn.Linear(in_features if depth == 1 else width, num_classes)
    return nn.Sequential(layers)


NETWORKS: dict[str, Network] = {
    "mlp": Network(
        make=partial(mlp, depth=4),
        inputs=features((784,)),
        family="mlp",
        kind="linear",
        source=OUR_OWN,
        scaled=lambda factor: mlp(4, scale(512, factor)),
        shallower=tuple(partial(mlp, depth) for depth in (1, 2, 3)),
    )
}
