"""Retrieval and pre-ranking with two-tower models, from a raw log to a served, inspected, reproducible recommender."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from twotower.core.version import __version__

if TYPE_CHECKING:
    from twotower.core.errors import InputError
    from twotower.data.dataset import Dataset
    from twotower.data.splitters import SPLITTERS
    from twotower.diagnosis import Diagnosis, diagnose
    from twotower.evaluation.compare import Comparison
    from twotower.evaluation.result import Result
    from twotower.experiment.front import compare, evaluate, refresh, train, tune
    from twotower.experiment.ladder.fit import fit
    from twotower.experiment.refresh import Refreshed
    from twotower.experiment.run import Run
    from twotower.experiment.sources import SAMPLERS
    from twotower.experiment.train import Trained
    from twotower.index.registry import INDEXES
    from twotower.losses.registry import LOSSES
    from twotower.metrics.registry import METRICS
    from twotower.models.base import Model
    from twotower.models.registry import MODELS
    from twotower.scorers.registry import SCORERS
    from twotower.serving.retriever import Retriever, load
    from twotower.towers.registry import TOWERS

__all__ = [
    "INDEXES",
    "LOSSES",
    "METRICS",
    "MODELS",
    "SAMPLERS",
    "SCORERS",
    "SPLITTERS",
    "TOWERS",
    "Comparison",
    "Dataset",
    "Diagnosis",
    "InputError",
    "Model",
    "Refreshed",
    "Result",
    "Retriever",
    "Run",
    "Trained",
    "__version__",
    "compare",
    "diagnose",
    "evaluate",
    "fit",
    "load",
    "refresh",
    "train",
    "tune",
]

_ON_DEMAND = {
    "INDEXES": "twotower.index.registry",
    "LOSSES": "twotower.losses.registry",
    "METRICS": "twotower.metrics.registry",
    "MODELS": "twotower.models.registry",
    "SAMPLERS": "twotower.experiment.sources",
    "SCORERS": "twotower.scorers.registry",
    "SPLITTERS": "twotower.data.splitters",
    "TOWERS": "twotower.towers.registry",
    "Comparison": "twotower.evaluation.compare",
    "Dataset": "twotower.data.dataset",
    "Diagnosis": "twotower.diagnosis",
    "InputError": "twotower.core.errors",
    "Model": "twotower.models.base",
    "Refreshed": "twotower.experiment.refresh",
    "Result": "twotower.evaluation.result",
    "Retriever": "twotower.serving.retriever",
    "Run": "twotower.experiment.run",
    "Trained": "twotower.experiment.train",
    "compare": "twotower.experiment.front",
    "diagnose": "twotower.diagnosis",
    "evaluate": "twotower.experiment.front",
    "fit": "twotower.experiment.ladder.fit",
    "load": "twotower.serving.retriever",
    "refresh": "twotower.experiment.front",
    "train": "twotower.experiment.front",
    "tune": "twotower.experiment.front",
}
"""Each name by the module that is imported when it is first asked for: ``import twotower`` itself stays light."""


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return getattr(import_module(_ON_DEMAND[name]), name)
    raise AttributeError(f"module 'twotower' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_DEMAND})
