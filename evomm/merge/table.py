"""The merge methods by the name that recipes use."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from evomm.merge.method import Method, Parameter, read_parameters
from evomm.merge.methods import consensus, pairs, sparse, spheres, sums


def _always(arguments: Mapping[str, Any]) -> bool:
    return True


METHODS: Mapping[str, Method] = {
    "linear": Method(sums.linear, on="weights", formula=_always),
    "weighted_sum": Method(sums.weighted_sum, on="weights", parents=(2, 2), formula=_always),
    "add_difference": Method(sums.add_difference, on="weights", parents=(3, 3), needs_base=True),
    "passthrough": Method(sums.passthrough, on="weights", parents=(1, 1), formula=_always),
    "slerp": Method(spheres.slerp, on="weights", parents=(2, 2), formula=_always),
    "nuslerp": Method(spheres.nuslerp, on="either", parents=(2, 2), rows=True, formula=lambda a: a["nuslerp_flatten"]),
    "multislerp": Method(spheres.multislerp, on="either", formula=_always),
    "karcher": Method(spheres.karcher, on="weights", formula=_always),
    "task_arithmetic": Method(sums.task_arithmetic, on="deltas", formula=_always),
    "ties": Method(sparse.ties, on="deltas", formula=_always),
    "breadcrumbs": Method(sparse.breadcrumbs, on="deltas", formula=_always),
    "breadcrumbs_ties": Method(sparse.breadcrumbs_ties, on="deltas", formula=_always),
    "dare_linear": Method(sparse.dare_linear, on="deltas"),
    "dare_ties": Method(sparse.dare_ties, on="deltas"),
    "della": Method(sparse.della, on="deltas", rows=True),
    "della_linear": Method(sparse.della_linear, on="deltas", rows=True),
    "model_stock": Method(
        consensus.model_stock, on="deltas", parents=(2, float("inf")), rows=True, formula=lambda a: not a["filter_wise"]
    ),
    "sce": Method(consensus.sce, on="deltas"),
    "ram": Method(consensus.ram, on="deltas"),
    "ramplus_tl": Method(consensus.ramplus_tl, on="deltas"),
    "nearswap": Method(pairs.nearswap, on="weights", parents=(2, 2), needs_base=True),
    "arcee_fusion": Method(pairs.arcee_fusion, on="weights", parents=(2, 2), needs_base=True, rows=True),
    "cosine_a": Method(pairs.cosine_a, on="weights", parents=(2, 2), rows=True),
    "cosine_b": Method(pairs.cosine_b, on="weights", parents=(2, 2), rows=True),
}


@cache
def parameters(method: str) -> Mapping[str, Parameter]:
    """The parameters of a method by name, in the order of its signature."""
    return read_parameters(METHODS[method].combine)
