"""Settings: a network on a task, how long it trains, and who tunes for whom."""

import math
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.quality.spec import Build, Case, Options, Recipe, Tuning, npas_build, options

#: Learning rates that every method is given, and those that follow while the best is at an edge.
SGD = (0.2, 0.5, 1.2)
ADAMW = (1e-3, 3e-3, 1e-2)
_WIDER = {
    "sgd": (0.03, 0.08, *SGD, 3.0, 8.0),
    "adamw": (1e-4, 3e-4, *ADAMW, 3e-2, 0.1),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A network on a task.

    Attributes:
        recipe: without a learning rate.
        rates: the grid of every tuning, as it begins.
        tuned_on: a shorter recipe that the rates are chosen on; None for the recipe itself.
        tuned_with: options of the npas build that the rates of compiled networks are chosen with.
    """

    recipe: Recipe
    rates: tuple[float, ...] = SGD
    tuned_on: Recipe | None = None
    tuned_with: Options = ()

    def dense(self, arm: str = "dense") -> Case:
        """Return the case of the network as it is."""
        return Case(arm, Build(), self.recipe, self._tuning(Build()), "dense")

    def with_options(self, **how: Any) -> "Setting":
        """Return the setting with options of `benchmarks.quality.train`, at the same rates."""
        recipe = replace(self.recipe, how=options(**how))
        return replace(self, recipe=recipe, tuned_on=self.tuned_on or self.recipe)

    def npas(self, arm: str, budget: str, paper: str = "", **how: Any) -> Case:
        """Return the case of a compiled network; options are those of `npas.plan`.

        All compiled networks of like budgets are trained at the rate that is best for npas's
        defaults.
        """
        return Case(arm, npas_build(budget, **how), self.recipe, self._like("npas", budget), paper)

    def peer(self, arm: str, method: str, budget: str, paper: str = "") -> Case:
        """Return the case of a peer."""
        return Case(arm, Build(method, budget), self.recipe, self._like(method, budget), paper)

    def reduced(self, budget: str, arm: str = "reduced width") -> Case:
        """Return the case of the network with fewer channels."""
        return self.peer(arm, "reduced_width", budget, "reduced")

    def tuned(self, case: Case) -> Case:
        """Return a case of a compiled network with a rate that is best for itself."""
        budget = representative(case.build.budget or "100%")
        return replace(case, tuning=self._tuning(replace(case.build, budget=budget)))

    def _like(self, method: str, budget: str) -> Tuning:
        """Return the tuning of a method: for every range of budgets one, at a budget within."""
        how = self.tuned_with if method == "npas" else ()
        return self._tuning(Build(method, representative(budget), how))

    def _tuning(self, build: Build) -> Tuning:
        recipe = self.tuned_on or self.recipe
        return Tuning(build, recipe, self.rates, wider=_WIDER[recipe.optimizer])


#: Highest share of a range of budgets, and the budget that its learning rates are chosen at.
_RANGES = ((0.04, "2%"), (0.25, "10%"), (1.0, "50%"), (math.inf, "4x"))


def representative(budget: str) -> str:
    """Return the budget that is tuned for this one; ``"largest"`` depends on the network."""
    if budget == "largest":
        return budget
    share = float(budget[:-1]) / (100 if budget.endswith("%") else 1)
    return next(name for most, name in _RANGES if share <= most)


WRN16 = Setting(Recipe("cifar10", "wrn-16-1", 16))
WRN16_SHORT = Setting(Recipe("cifar10", "wrn-16-1", 8))
WRN16_WIDE = Setting(Recipe("cifar10", "wrn-16-2", 8))
WRN28 = Setting(Recipe("cifar10", "wrn-28-1", 8))
WRN28_WIDE = Setting(Recipe("cifar10", "wrn-28-2", 8))
WRN40 = Setting(Recipe("cifar10", "wrn-40-1", 8))
#: All images of CIFAR-10; learning rates are those of WRN16.
ANCHOR = Setting(Recipe("cifar10-all", "wrn-16-1", 12), tuned_on=WRN16.recipe)
DENSENET = Setting(Recipe("cifar10", "densenet-bc-28-12", 8))
EFFICIENTNET = Setting(Recipe("cifar10", "efficientnet-small", 8))
_TEXT = {"epochs": 5, "optimizer": "adamw", "weight_decay": 0.01}
GLOSS = Setting(Recipe("gloss", "encoder-6x80-gloss", **_TEXT), ADAMW)
TWEETS = Setting(Recipe("vader-tweets", "encoder-4x96-vader", batch=32, **_TEXT), ADAMW)
TWEETS_DEEP = Setting(Recipe("vader-tweets", "encoder-6x80-vader", batch=32, **_TEXT), ADAMW)
#: First seed of what emoji networks are tested on: their settings were chosen with lower ones.
EMOJI_FIRST = 200
_PAIRS = {"optimizer": "adamw", "weight_decay": 1e-3}
EMBNET = Setting(Recipe("emoji-embnet", "emoji-embnet", 10, **_PAIRS), ADAMW)
ADAPT = Setting(Recipe("emoji-adapt", "emoji-adapt", 4, batch=32, **_PAIRS), ADAMW)
SIMNET = Setting(Recipe("emoji-simnet", "emoji-simnet", 4, **_PAIRS), ADAMW)
FASHION = Setting(Recipe("fashion-mnist", "wrn-16-1-grey", 8))
