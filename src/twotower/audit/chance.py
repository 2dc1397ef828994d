"""Are answers for a table better than chance? The neighbours of its states, held against those of its raw texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twotower.audit.text import text_columns
from twotower.audit.text_encoder import texts_of
from twotower.core.errors import InputError
from twotower.core.seeds import torch_generator
from twotower.diagnosis.thresholds import Thresholds
from twotower.diagnosis.verdict import Reason
from twotower.ops.cosines import nearest
from twotower.serving.bundle import Bundle
from twotower.serving.table import raw_columns

ROWS = 2_000
"""Rows compared with each other, at most."""
LEAST_ROWS = 50
"""Rows with a text that a comparison needs."""
LEAST_SPREAD = 0.02
"""By how much a text's nearest must be more alike than random texts; below, texts tell nothing."""
NEIGHBOURS = 10


def text_gain(states: Tensor, texts: Sequence[str], *, seed: int = 0) -> float | None:
    """Measure how much of what texts have in common the neighbours of states have: 1 as the texts' own, 0 chance.

    (s − r) / (b − r), where s is the mean TF-IDF cosine of a row with its ten nearest by the cosine of the states, b
    that with its ten nearest by text, and r that with all rows. Rows without a word are left out; of more than 2,000,
    a random sample. None: there are fewer than 50, or no text is like another.

    Args:
        states: [rows, dim].
        texts: one a row, as they are written.
        seed: of the sample.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True, max_df=0.5, min_df=2)
        weights = words.fit_transform(texts)
    except ValueError:  # no word stands in two texts
        return None
    there = torch.from_numpy(weights.getnnz(axis=1) > 0) & (states.square().sum(1) > 0)
    rows = there.nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=torch_generator(seed, "texts"))[:ROWS]].sort().values
    if len(rows) < LEAST_ROWS:
        return None
    chosen = weights[rows.numpy()]
    alike = torch.from_numpy((chosen @ chosen.T).toarray()).double()
    alike.fill_diagonal_(float("nan"))
    unit = torch.nn.functional.normalize(states[rows].double(), dim=1)
    _, where = nearest(unit, iter([unit]), NEIGHBOURS, skip=torch.arange(len(rows)))
    own = alike.gather(1, where).mean().item()
    best = alike.nan_to_num(nan=-1.0).topk(NEIGHBOURS, dim=1).values.mean().item()
    by_chance = alike.nanmean().item()
    return (own - by_chance) / (best - by_chance) if best - by_chance >= LEAST_SPREAD else None


def judge_texts(
    table: Path,
    bundle: Bundle,
    *,
    states: Tensor,
    training: Tensor,
    training_rows: Tensor,
    drifted: Sequence[str],
    thresholds: Thresholds,
    seed: int = 0,
) -> tuple[dict[str, Any] | None, Reason | None]:
    """Return the gain of a table's texts and that of training rows, and a reason when answers for it are at chance.

    At chance they are when the table's gain is below the threshold, and the model can be expected to do better: its
    training rows do, or a text drifted. None where the bundle's items have no text, or the table's tell nothing.

    Args:
        table: the file.
        bundle: about to serve it.
        states: of the table's rows.
        training: states of rows that the bundle knows.
        training_rows: their row numbers.
        drifted: features that are no longer what they were in training.
        thresholds: as of the verdict.
        seed: of samples.
    """
    try:
        columns = text_columns(bundle)
    except InputError:
        return None, None
    gain = text_gain(states.float().cpu(), texts_of(raw_columns(table, bundle), columns), seed=seed)
    if gain is None:
        return None, None
    records = bundle.item_vocabulary.records(training_rows.tolist())
    known = text_gain(training.float().cpu(), texts_of([record.columns for record in records], columns), seed=seed)
    limit = thresholds["at_chance"]["suspect"]
    far = any(feature.name in drifted for feature in bundle.schema.item_features if feature.kind == "text")
    found = {"gain": gain, "training_gain": known, "columns": columns}
    if gain >= limit or not (far or (known is not None and known >= 2 * limit)):
        return found, None
    before = "" if known is None else f"; those of training rows have {known:.0%}"
    sentence = (
        f"neighbours by the model have next to nothing more in common in their texts than random rows ({gain:.0%} of "
        f"what neighbours by text have{before}): far from training, answers are at chance"
    )
    return found, Reason("at_chance", "suspect", gain, limit, sentence)
