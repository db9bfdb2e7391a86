"""The searchers by the name that configs use."""

from collections.abc import Mapping

from evomm.search.base import Searcher
from evomm.search.cma import CMASearcher
from evomm.search.grid import GridSearcher
from evomm.search.random import RandomSearcher

SEARCHERS: Mapping[str, type[Searcher]] = {"cma": CMASearcher, "grid": GridSearcher, "random": RandomSearcher}
