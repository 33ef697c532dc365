"""The networks that are trained, and the groups that a person would choose for them."""

from collections.abc import Callable, Mapping
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

#: Groups by hand, as patterns. "manual" is our reading of the paper's Figure 5 for networks of four
#: blocks a stage (the figure says that green boxes share nothing, and follows Savarese and Maire):
#: the stem, the classifier, the shortcuts and both convolutions of each stage's first block have
#: banks of their own, the six convolutions of a stage's other blocks share one: 5 + 3 * 3 = 14
#: banks. "ends apart" is one bank for all but the stem and the classifier.
PATTERNS: Mapping[str, Mapping[str, str]] = {
    "manual": {f"group{stage}.[123].conv[12].weight": f"stage{stage}" for stage in (1, 2, 3)},
    "ends apart": {"group[123]": "middle"},
}
