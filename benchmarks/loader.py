"""The plain form of SASRec training: a Dataset, a DataLoader, rows collated in Python, logits of every position."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from twotower.data.log import Log
from twotower.models.sequential import SASRec


class Windows(TorchDataset):
    """One user's latest window as a Python list."""

    def __init__(self, log: Log, length: int) -> None:
        items, offsets = log.items.tolist(), log.offsets.tolist()
        sequences = [items[start:end] for start, end in pairwise(offsets)]
        self.sequences = [sequence for sequence in sequences if len(sequence) >= 2]
        self.length = length

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, row: int) -> list[int]:
        return self.sequences[row][-self.length - 1 :]


def collate(length: int):
    """Pad every row to the full length, one by one."""

    def pad(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.zeros(len(rows), length, dtype=torch.int64)
        targets = torch.zeros(len(rows), length, dtype=torch.int64)
        for place, row in enumerate(rows):
            inputs[place, : len(row) - 1] = torch.tensor(row[:-1])
            targets[place, : len(row) - 1] = torch.tensor(row[1:])
        return inputs, targets

    return pad


def train(model: SASRec, log: Log, *, batch_size: int, length: int, steps: int) -> int:
    """Train for some steps; returns the positions that were learnt from."""
    loader = DataLoader(Windows(log, length), batch_size=batch_size, shuffle=True, collate_fn=collate(length))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    positions = 0
    for done, (inputs, targets) in enumerate(loader, start=1):
        logits = model.positions(inputs) @ model.item_table.weight.T
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        positions += int((targets > 0).sum())
        if done == steps:
            break
    return positions
