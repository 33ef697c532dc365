"""In place: a model that stays itself while its weights come from banks, and back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

from npas.compiled import State, compiled_class, state_of
from npas.errors import NpasError
from npas.leaf import leaf_class, sources_of
from npas.module import Shapeshifter
from npas.passes.materialize import dense_weights, give_back_all
from npas.passes.rewrite import Banks
from npas.passes.schedule import makes_whole, remakes
from npas.plan import Plan
from npas.report import Report
from npas.ties import tied_names

M = TypeVar("M", bound=nn.Module)
FRONT_END = "in place"
# What torch.nn.Module itself holds.
_MODULE = frozenset(nn.Module().__dict__)


def state_in_place(
    model: nn.Module, plan: Plan, banks: Banks, schedule: str, recompute: bool | str
) -> State:
    """Return what npas keeps with a model that it changes in place."""
    banks.live.whole = makes_whole(plan, schedule, recompute)
    why = "the model's own forward runs, and modules make their weights when they read them"
    return State(
        original=type(model),
        plan=plan,
        report=Report(FRONT_END, {}, (), submodules=_submodules(model, why)),
        live=banks.live,
        recompute=remakes(plan, recompute),
        how={
            "frontend": FRONT_END,
            "n_inputs": 0,
            "keywords": [],
            "schedule": schedule,
            "recompute": recompute,
        },
        ties=tied_names(model, plan),
    )


@contextmanager
def unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Put a model back as it was if what runs inside fails or is interrupted.

    That is the class of every module, and what it holds; values that were written stay.
    """
    before = [(m, type(m), dict(m.__dict__), _contents(m)) for m in model.modules()]
    try:
        yield
    except BaseException:
        for module, cls, held, contents in before:
            module.__class__ = cls
            module.__dict__.clear()
            module.__dict__.update(held)
            for name, items in contents.items():
                held[name].clear()
                held[name].update(items)
        raise


def _contents(module: nn.Module) -> dict[str, dict[Any, Any]]:
    """Return copies of what torch.nn.Module keeps in dicts: parameters, children, hooks."""
    own = {n: v for n, v in module.__dict__.items() if n in _MODULE and isinstance(v, dict)}
    return {name: dict(value) for name, value in own.items()}


def install(model: nn.Module, banks: Banks, state: State) -> None:
    """Let a model generate its weights; inside of `unchanged_on_error`.

    Args:
        model: any module.
        banks: initialised.
        state: what npas keeps with the model.
    """
    banks.attach(model)
    banks.hold(model, {})
    model.__class__ = compiled_class(type(model))
    model.__dict__["_npas"] = state


def uncompile_(model: M) -> M:
    """Make a model that `npas.compile_` changed the plain one again, in place.

    Args:
        model: from `npas.compile_`.

    Returns:
        The model itself: of its original class, with the weights that its banks make now.
        Parameters and buffers that were kept stay the same tensors.

    Raises:
        NpasError: if the model was not compiled in place, or weights of a part that it shares come
            from the banks of another model. The model is then what it was.
    """
    state = state_of(model)
    if state is None or isinstance(model, Shapeshifter):
        raise NpasError(
            f"{type(model).__name__} was not compiled in place; uncompile_ takes what "
            "npas.compile_ changed, and npas.materialize what npas.compile returned"
        )
    with unchanged_on_error(model):
        _restore(model, dense_weights(model))
    return model


def _restore(model: nn.Module, weights: dict[str, nn.Parameter]) -> None:
    """Undo `install`, with these weights (by every name that they have)."""
    state = state_of(model)
    assert state is not None
    names = tuple(sources_of(model))
    root: Any = model
    root.__class__ = leaf_class(state.original, names) if names else state.original
    model._modules.pop("npas", None)
    del model.__dict__["_npas"]
    give_back_all(model, weights)


def _submodules(model: nn.Module, why: str) -> dict[str, str]:
    return {path: f"opaque: {why}" for path, _ in model.named_modules()}
