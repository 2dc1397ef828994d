"""Exact search for the largest inner products."""

from __future__ import annotations

from pathlib import Path

import torch

from twotower.index.scan import Scan, inner_product


class ExactIndex(Scan):
    """Score every item vector for every user vector by inner product.

    Examples:
        >>> import torch
        >>> index = ExactIndex()
        >>> index.build(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([7, 9]))
        >>> index.search(torch.tensor([[0.2, 0.9]]), 1).ids
        tensor([[9]])
    """

    def __init__(self) -> None:
        super().__init__(inner_product)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> ExactIndex:
        """Read what `save` wrote.

        Raises:
            InputError: if the file is missing or is not of this format.
        """
        index = cls()
        index.restore(folder)
        index.to(device)
        return index
