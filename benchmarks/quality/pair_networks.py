"""EmbNet, ADAPT-T2I and SimNet as `benchmarks.networks` has them, in the sizes of the emoji tasks.

The proportions are near the paper's: embeddings are a quarter of the hidden layers in EmbNet and
SimNet, and the GRU has most of the parameters of ADAPT-T2I.
"""

from benchmarks.networks.adapt import adapt
from benchmarks.networks.embnet import embnet
from benchmarks.networks.simnet import simnet
from benchmarks.networks.spec import OUR_OWN, Network, features, scale
from benchmarks.quality.tasks.grounding import REGION
from benchmarks.quality.tasks.pair_words import WIDTH as WORD
from benchmarks.quality.tasks.retrieval_emoji import IMAGE, N_REGIONS, N_WORDS, WINDOW
from benchmarks.quality.tasks.scenes import N_BOXES

#: name -> network, for the task of the same name.
NETWORKS: dict[str, Network] = {
    "emoji-embnet": Network(
        make=lambda: embnet(IMAGE, WORD, hidden=1024, embedding=256),
        inputs=features((IMAGE,), (WORD,)),
        family="embnet",
        kind="linear",
        source=OUR_OWN,
        scaled=lambda factor: embnet(IMAGE, WORD, scale(1024, factor), 256),
    ),
    "emoji-adapt": Network(
        make=lambda: adapt(WORD, WINDOW, width=96),
        inputs=features((N_REGIONS, WINDOW), (N_WORDS, WORD)),
        family="adapt",
        kind="recurrent",
        source=OUR_OWN,
        scaled=lambda factor: adapt(WORD, WINDOW, scale(96, factor)),
    ),
    "emoji-simnet": Network(
        make=lambda: simnet(REGION, WORD, width=256, embedding=64),
        inputs=features((N_BOXES, REGION), (WORD,)),
        family="simnet",
        kind="linear",
        source=OUR_OWN,
        scaled=lambda factor: simnet(REGION, WORD, scale(256, factor), scale(64, factor)),
    ),
}
