"""Contents of a run's bundle: the trained model with its data, its figures, and the run's index over its items."""

from __future__ import annotations

from typing import Any

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.evaluation.result import Result
from twotower.experiment.index_users import show_users
from twotower.experiment.registrations import own_parts
from twotower.experiment.run import Run
from twotower.index.registry import build_index, serves
from twotower.models.base import Model
from twotower.models.encode import ItemStates, inference
from twotower.serving.collections import deleted_on_failure
from twotower.serving.contents import Contents
from twotower.serving.filters.fill import fill_columns


def contents_of(
    run: Run,
    model: Model,
    dataset: Dataset,
    items: ItemStates,
    test: Result | None,
    diagnosis: dict[str, Any] | None,
    *,
    events: Log,
    learnt: str = "",
    refresh: dict[str, Any] | None = None,
) -> Contents:
    """Return what the bundle of a trained model is written from, with the run's index built over the items.

    Args:
        run: with all its settings written out.
        model: trained.
        dataset: that it learnt from; all its events become the histories.
        items: what the model makes of every known item.
        test: whose metrics are noted.
        diagnosis: of the item vectors.
        events: that the model learnt from.
        learnt: in words, where that is not what the run says.
        refresh: of a refreshed bundle: where it came from, and its verdict.
    """
    index = None
    if serves(run.index.kind, inner_product=model.inner_product):
        index = build_index(run.index.kind, run.index.settings, model)
        show_users(index, model, dataset, dataset.log.positives())
        table = None if dataset.folder is None else dataset.folder / "vocabulary" / "items.parquet"
        with deleted_on_failure(index):
            with inference(model):
                index.build(items.states, items.ids)
            fill_columns(index, table, dataset.schema.num_items, items.ids)
    return Contents(
        model=model,
        model_name=run.model.name,
        model_parameters=run.model.settings,
        dataset=dataset,
        items=items,
        run_toml=run.to_toml(),
        parts=own_parts(run),
        metrics={} if test is None else test.metrics,
        intervals={} if test is None else test.bounds(),
        histories=dataset.log,
        diagnosis=diagnosis,
        index=index,
        learnt=learnt,
        events=events,
        refresh=refresh,
    )
