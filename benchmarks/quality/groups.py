"""Groups that a person would choose for a network, as patterns of layer names."""

from collections.abc import Mapping

#: "manual" is our reading of the paper's Figure 5 (green boxes share nothing; after Savarese and
#: Maire, 2019): the stem, the classifier, the shortcuts and both convolutions of each stage's first
#: block have banks of their own, the convolutions of a stage's other blocks share one. "stages"
#: is a bank for each stage, with the stem in the first and the classifier in the last. "ends apart"
#: is one bank for all but the stem and the classifier, "ends and shortcuts apart" one for the 3x3
#: convolutions of the blocks. "tables" is one for an encoder's embeddings, and one for all else.
PATTERNS: Mapping[str, Mapping[str, str]] = {
    "manual": {f"group{stage}.[1-9]*.conv[12].weight": f"stage{stage}" for stage in (1, 2, 3)},
    "stages": {
        "stem": "stage1",
        **{f"group{stage}": f"stage{stage}" for stage in (1, 2, 3)},
        "head": "stage3",
    },
    "ends apart": {"group[123]": "middle"},
    "ends and shortcuts apart": {"group[123].*.conv[12].weight": "middle"},
    "tables": {"positions": "tables", "embedding": "tables", "*": "rest"},
}
