"""npas: any network within any parameter budget, by sharing parameters between layers."""

from npas.api import compile, compile_, fit, plan
from npas.checkpoint import load, save
from npas.counting import count
from npas.errors import (
    BudgetError,
    CheckpointError,
    DivergedError,
    NpasError,
    NpasWarning,
    PlanError,
    TraceError,
)
from npas.fitting.model import load_dense_
from npas.inplace import uncompile_
from npas.mapping import Mapping
from npas.passes.materialize import dense_state_dict, materialize
from npas.plan import Plan
from npas.ranks import check_ranks
from npas.resetting import reset
from npas.searching.cluster import cluster
from npas.searching.search import search, search_model
from npas.sharding import fsdp_units, parallelize_module
from npas.tools import param_groups, refresh, report

__all__ = [
    "BudgetError",
    "CheckpointError",
    "DivergedError",
    "Mapping",
    "NpasError",
    "NpasWarning",
    "Plan",
    "PlanError",
    "TraceError",
    "check_ranks",
    "cluster",
    "compile",
    "compile_",
    "count",
    "dense_state_dict",
    "fit",
    "fsdp_units",
    "load",
    "load_dense_",
    "materialize",
    "parallelize_module",
    "param_groups",
    "plan",
    "refresh",
    "report",
    "reset",
    "save",
    "search",
    "search_model",
    "uncompile_",
]
__version__ = "0.1.0"
