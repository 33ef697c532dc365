"""npas: any network within any parameter budget, by sharing parameters between layers."""

from npas.api import compile, compile_, plan
from npas.checkpoint import load, save
from npas.errors import (
    BudgetError,
    CheckpointError,
    NpasError,
    NpasWarning,
    PlanError,
    TraceError,
)
from npas.inplace import uncompile_
from npas.mapping import Mapping
from npas.passes.materialize import dense_state_dict, materialize
from npas.plan import Plan
from npas.tools import param_groups, refresh, report, reset

__all__ = [
    "BudgetError",
    "CheckpointError",
    "Mapping",
    "NpasError",
    "NpasWarning",
    "Plan",
    "PlanError",
    "TraceError",
    "compile",
    "compile_",
    "dense_state_dict",
    "load",
    "materialize",
    "param_groups",
    "plan",
    "refresh",
    "report",
    "reset",
    "save",
    "uncompile_",
]
__version__ = "0.1.0"
