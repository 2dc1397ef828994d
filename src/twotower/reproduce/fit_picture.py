"""Figure 6 of FIT: items and the hard queries that represent them, laid out on a plane."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twotower.core.errors import InputError
from twotower.core.files import replacing_file
from twotower.core.records import FIRST_KNOWN
from twotower.core.seeds import derive, torch_generator
from twotower.data.dataset import Dataset
from twotower.models.encode import inference
from twotower.models.fit.model import FIT

SIZE, MARGIN = 900, 30


class QueryMap(NamedTuple):
    """Hold places on the plane: ``items`` [items, 2], ``queries`` [queries, 2], ``chosen`` [items] (its query)."""

    items: Tensor
    queries: Tensor
    chosen: Tensor


def query_points(model: FIT, dataset: Dataset, *, items: int = 2_000, seed: int = 0) -> dict[str, Tensor]:
    """Return the points of the picture: random items' fields, all hard queries, and each item's query.

    Args:
        model: trained.
        dataset: of the model.
        items: how many are drawn; all, where there are fewer.
        seed: of the draw.

    Returns:
        ``items`` [items, width], ``queries`` [queries, width] and ``chosen`` [items], on the CPU.

    Raises:
        InputError: if the model has no meta queries.
    """
    if model.meta is None:
        raise InputError("this model has no meta queries (meta_queries = 0), so there is nothing to lay out")
    known = dataset.schema.num_items - FIRST_KNOWN
    drawn = FIRST_KNOWN + torch.randperm(known, generator=torch_generator(seed, "query map"))[:items]
    with inference(model):
        fields = model.item_fields.of_ids(drawn.to(dataset.device))
        hard = model.meta.hard()
        return {"items": fields.cpu(), "queries": hard.cpu(), "chosen": model.meta.index(fields).cpu()}


def query_map(points: Mapping[str, Tensor], *, seed: int = 0) -> QueryMap:
    """Compute t-SNE of items and queries together, as the attention unit sees both.

    Vectors are put to length 1 first: an item chooses its query by the inner product, and lengths differ between the
    two kinds.

    Args:
        points: of `query_points`.
        seed: of the layout.

    Raises:
        InputError: if there are fewer than five points.
    """
    from sklearn.manifold import TSNE

    both = torch.cat([points["items"], points["queries"]]).float()
    if len(both) < 5:
        raise InputError(f"t-SNE of {len(both)} points says nothing; take at least five")
    layout = TSNE(2, perplexity=min(30.0, (len(both) - 1) / 3), init="pca", random_state=derive(seed, "t-sne") % 2**32)
    found = layout.fit_transform(torch.nn.functional.normalize(both, dim=1).numpy())
    places = torch.from_numpy(np.array(found, dtype=np.float64))
    count = len(points["items"])
    return QueryMap(places[:count], places[count:], points["chosen"])


def write_picture(found: QueryMap, path: Path | str) -> None:
    """Write an SVG file: items as dots in the colour of their query, queries that some item chose as crosses."""
    both = torch.cat([found.items, found.queries])
    low, span = both.min(dim=0).values, both.max(dim=0).values - both.min(dim=0).values
    scaled = MARGIN + (both - low) / span.clamp(min=1e-12) * (SIZE - 2 * MARGIN)
    items, queries = scaled[: len(found.items)].tolist(), scaled[len(found.items) :].tolist()
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" font-family="sans-serif">']
    lines += [f'<rect width="{SIZE}" height="{SIZE}" fill="white"/>']
    # Steps of the golden angle keep neighbouring numbers apart on the circle of hues.
    for (x, y), query in zip(items, found.chosen.tolist(), strict=True):
        hue = round(query * 137.508 % 360)
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="hsl({hue} 70% 50%)" fill-opacity="0.6"/>')
    for query in sorted(set(found.chosen.tolist())):
        x, y = queries[query]
        cross = f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"
        lines.append(f'<path d="{cross}" stroke="black" stroke-width="2"><title>query {query}</title></path>')
    with replacing_file(Path(path)) as partial:
        partial.write_text("\n".join([*lines, "</svg>", ""]), encoding="utf-8")
