"""A pretrained network at a budget, fine-tuned: SVD, fitted banks, and starts from scratch."""

from dataclasses import replace

from benchmarks.quality.spec import Build, Case, Experiment, Recipe, Tuning, npas_build, options

#: Learning rates of fine-tuning, and those that follow while the best is at an edge.
FINETUNE = (1e-4, 3e-4, 1e-3)
_WIDER = (1e-5, 3e-5, *FINETUNE, 3e-3, 1e-2, 3e-2)
_HEAD = ("head",)
_ADAMW = {"optimizer": "adamw", "weight_decay": 0.01}
MINILM = Recipe("vader-movie-minilm", "minilm", 1, batch=16, **_ADAMW)
EFFICIENTNET = Recipe("cifar10-64", "efficientnet-lite0", 2, batch=32, **_ADAMW)


def _case(arm: str, build: Build, recipe: Recipe) -> Case:
    """Return a case with a learning rate of its own."""
    tuning = Tuning(build, recipe, FINETUNE, seeds=(1000,), wider=_WIDER)
    return Case(arm, build, recipe, tuning)


def _arms(recipe: Recipe) -> tuple[Case, ...]:
    """Return every start, at 75%."""
    drawn = replace(recipe, network=f"{recipe.network}-random")
    by_size, auto = options(groups="fit"), options(groups="auto")
    return (
        _case("dense", Build(), recipe),
        _case("SVD", Build("svd", "75%"), recipe),
        _case("npas.fit, by size", Build("fit", "75%", by_size), recipe),
        _case("npas.fit, auto", Build("fit", "75%", auto), recipe),
        _case("npas from scratch", npas_build("75%", ignored_modules=_HEAD), drawn),
        _case("dense from scratch", Build(), drawn),
    )


def _experiment(
    name: str, title: str, note: str, arms: tuple[Case, ...], minutes: float
) -> Experiment:
    return Experiment(
        f"pretrained/{name}",
        f"A pretrained network at 75% of its parameters, fine-tuned: {title}",
        f"{note} All arms of a seed have the same steps, samples and new head. The head counts in "
        "the budget, and is in no bank and no SVD. SVD is of every linear layer, pointwise "
        "convolution and embedding, weighted, as the fits are, by the inputs of the seed's first 8 "
        "batches. Learning rates are chosen on one seed. The arms from scratch keep nothing of the "
        "pretraining, neither norms nor biases.",
        arms,
        "SVD",
        also="dense",
        seeds=5,
        minutes=minutes,
    )


EXPERIMENTS = (
    _experiment(
        "minilm",
        "MiniLM on film reviews",
        "all-MiniLM-L6-v2 (22.6M parameters, 11.7M of them word embeddings), the mean over the "
        "tokens, 1,280 sentences of at most 32 tokens, 1 epoch of 80 steps.",
        _arms(MINILM),
        50,
    ),
    _experiment(
        "efficientnet",
        "EfficientNet-Lite0 on CIFAR-10",
        "EfficientNet-Lite0 (3.4M parameters without its classifier, trained on ImageNet), 4,000 "
        "images enlarged to 64x64, 2 epochs of 125 steps. The momentum of batch norm is 0.1.",
        _arms(EFFICIENTNET),
        45,
    ),
)
