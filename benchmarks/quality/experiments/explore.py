"""What may be better than the defaults, tried on seeds that no confirmation uses."""

from collections.abc import Callable
from dataclasses import replace

from benchmarks.quality.experiments.settings import (
    FASHION,
    GLOSS,
    TWEETS,
    WRN16_SHORT,
    WRN28,
    Setting,
)
from benchmarks.quality.spec import Case, Experiment, options

EMB = "Emb, 4 learned groups"
_EMB = {"groups": "search-emb-orthogonal", "n_banks": 4, "downsample": "emb", "k": 4}
#: As many banks as possible without a layer being upsampled: what "auto" was before it was given
#: room for four templates.
TIGHT = "tight banks"
#: The rates of what is compared with them were chosen with them.
_TUNED_TIGHT = options(room=1)
_ENDS = ("stem", "head")
_SHORTCUTS = (*_ENDS, "*.shortcut")


def tight(setting: Setting) -> Setting:
    """Return a setting whose rates are chosen with tight banks."""
    return replace(setting, tuned_with=_TUNED_TIGHT)


def _of_one_bank(*cases: Case) -> tuple[Case, ...]:
    return tuple(replace(case, against="one bank") for case in cases)


def _everywhere(setting: Setting, budget: str) -> tuple[Case, ...]:
    return (
        setting.npas(EMB, budget, **_EMB),
        setting.npas("defaults", budget),
        setting.npas("Emb", budget, downsample="emb"),
        setting.npas("learned, WAvg", budget, groups="search-wavg", n_banks=4),
        setting.npas("overlapping", budget, variant="overlapping"),
        setting.npas("disjoint", budget, variant="disjoint"),
        setting.npas("K = 8", budget, k=8),
    )


def _images(setting: Setting, budget: str) -> tuple[Case, ...]:
    return (
        *_everywhere(setting, budget),
        setting.npas("ends whole", budget, ignored_modules=_ENDS),
        setting.npas("ends and shortcuts whole", budget, ignored_modules=_SHORTCUTS),
    )


def _low(setting: Setting, budget: str) -> tuple[Case, ...]:
    # One bank is what the defaults come to, and its larger layers have masks.
    normal = setting.npas("masks start normal", budget, start="mask: normal")
    return (*_images(setting, budget), normal)


def _middle(setting: Setting, budget: str) -> tuple[Case, ...]:
    return (
        setting.npas(EMB, budget, **_EMB),
        setting.npas(TIGHT, budget, room=1),
        setting.npas("one bank", budget, groups="single"),
        *_of_one_bank(
            setting.npas("one bank, disjoint", budget, groups="single", variant="disjoint"),
            setting.npas("one bank, ends whole", budget, groups="single", ignored_modules=_ENDS),
        ),
        setting.npas("learned, WAvg", budget, groups="search-wavg", n_banks=4),
    )


def _full(setting: Setting, budget: str) -> tuple[Case, ...]:
    return (
        *_middle(setting, budget),
        setting.npas("room for 2", budget, room=2),
        *_of_one_bank(setting.npas("one bank, K = 8", budget, groups="single", k=8)),
        setting.npas("overlapping", budget, room=1, variant="overlapping"),
    )


def _beyond(setting: Setting, budget: str) -> tuple[Case, ...]:
    stages = {"groups": "stages"}
    sized = (
        setting.npas("stages, a first share 3 times the last", budget, tilt=1 / 3, **stages),
        setting.npas("stages, a last share 3 times the first", budget, tilt=3.0, **stages),
        setting.npas("stages, by marginal value", budget, by_value=True, **stages),
    )
    stable = {"groups": "search-wavg", "n_banks": "auto"}
    half_rate = setting.with_options(sharing_power=0.5)
    held = setting.with_options(hold_coefficients=0.2)
    return (
        setting.npas(EMB, budget, **_EMB),
        setting.npas("defaults", budget),
        setting.npas("stages", budget, **stages),
        *(replace(case, against="stages") for case in sized),
        setting.npas("learned, WAvg, most stable number", budget, **stable),
        setting.npas("K = 2", budget, k=2),
        setting.npas("K = 8", budget, k=8),
        half_rate.npas("rates fall with the root of the sharing", budget),
        held.npas("coefficients held for a fifth of the steps", budget),
    )


def _text(setting: Setting, budget: str) -> tuple[Case, ...]:
    return (
        setting.npas("defaults", budget),
        setting.npas("one bank", budget, groups="single"),
        setting.tuned(setting.npas(TIGHT, budget, room=1)),
        setting.tuned(setting.npas("tables apart", budget, groups="tables")),
    )


_Candidates = Callable[[Setting, str], tuple[Case, ...]]


def _experiment(
    name: str, setting: Setting, budget: str, what: str, candidates: _Candidates, minutes: float
) -> Experiment:
    cases = candidates(setting, budget)
    return Experiment(
        f"explore/{name} {budget}",
        f"Candidates: {what} at {budget}",
        "Differences are explored here, and confirmed or not on other seeds. Ends (stem and "
        "classifier) or shortcuts whole: they keep all of their parameters, the others share the "
        "rest. Tight banks: as many as possible without a layer being upsampled, so that a bank "
        "may hold its largest layer just once; room for 2: twice. Disjoint: templates side by side "
        "as in the paper. Stages: a bank for each; a share is parameters over elements of a "
        "stage's layers, and those with other shares are compared with equal ones. The network "
        "whose rate was chosen is that of the defaults, or of tight banks where these are there; "
        "those for text have rates of their own. Tables: embeddings of words and positions.",
        cases,
        "defaults" if any(case.arm == "defaults" for case in cases) else TIGHT,
        also=EMB if any(case.arm == EMB for case in cases) else None,
        seeds=6,
        minutes=minutes,
    )


EXPERIMENTS = (
    _experiment("cifar10", WRN28, "10%", "CIFAR-10, WRN-28-1", _low, 60),
    _experiment("cifar10", WRN28, "20%", "CIFAR-10, WRN-28-1", _middle, 45),
    _experiment("fashion-mnist", tight(FASHION), "50%", "Fashion-MNIST, WRN-16-1", _full, 20),
    _experiment("cifar10", tight(WRN28), "50%", "CIFAR-10, WRN-28-1", _full, 50),
    _experiment("fashion-mnist", FASHION, "10%", "Fashion-MNIST, WRN-16-1", _low, 20),
    _experiment("cifar10-small", WRN16_SHORT, "4%", "CIFAR-10, WRN-16-1", _low, 30),
    _experiment("cifar10-small", WRN16_SHORT, "50%", "CIFAR-10, WRN-16-1", _beyond, 35),
    _experiment("fashion-mnist", FASHION, "60%", "Fashion-MNIST, WRN-16-1", _beyond, 30),
    _experiment("tweets", TWEETS, "50%", "sentiment of tweets, an encoder", _text, 15),
    _experiment("gloss", GLOSS, "25%", "WordNet's definitions, an encoder", _text, 50),
)
