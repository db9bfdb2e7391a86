"""The searchers by the name that configs use."""

from collections.abc import Mapping

from evomm.search.base import Searcher
from evomm.search.cma import CMASearcher
from evomm.search.genetic import GeneticSearcher
from evomm.search.grid import GridSearcher
from evomm.search.m2n2 import M2N2Searcher
from evomm.search.nsga2 import NSGA2Searcher
from evomm.search.random import RandomSearcher

SEARCHERS: Mapping[str, type[Searcher]] = {
    "cma": CMASearcher,
    "genetic": GeneticSearcher,
    "grid": GridSearcher,
    "m2n2": M2N2Searcher,
    "nsga2": NSGA2Searcher,
    "random": RandomSearcher,
}
