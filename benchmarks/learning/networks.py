"""The networks that are trained."""

from collections.abc import Callable
from functools import partial

from torch import nn

from benchmarks.networks.wrn import wrn

#: name -> builds the network for 10 classes. A stem of 8 channels gives the first stage a
#: projection in its shortcut, as every stage of WRN-28-10 has; the stages are 16, 32 and 64 wide
#: as those of WRN-28-1.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "wrn-28-1": partial(wrn, 28, 2, stem=8),
    "wrn-16-1": partial(wrn, 16, 2, stem=8),
    "wrn-10-1": partial(wrn, 10, 2, stem=8),
    "wrn-28-grey": partial(wrn, 28, 2, stem=4, in_channels=1),
}
