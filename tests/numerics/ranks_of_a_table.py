"""One rank of the tests of sharded tables: trains a table by a fixed plan and writes what it saw. Run as a program."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from twotower.ops.exchange import Place
from twotower.towers.sharded_table import ShardedTable
from twotower.towers.table_files import load_table, save_table
from twotower.training.row_adagrad import RowAdagrad

ROWS, DIM, STEPS, RATE = 23, 5, 4, 0.3


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories and items of the global batch: padded, with repeats within a row and among rows."""
    generator = torch.Generator().manual_seed(100 + step)
    history = torch.randint(0, 9, (7, 4), generator=generator)
    history[2] = 0
    items = torch.randint(1, ROWS, (7,), generator=generator)
    items[3] = items[0]
    return history, items


def loss_of(means: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """A sum over rows in which every number of every row counts."""
    weights = torch.linspace(0.5, 1.5, DIM, dtype=means.dtype)
    return ((means - items).square() * weights).sum() + (means * items).sin().sum()


def share(rows: torch.Tensor, rank: int, size: int) -> torch.Tensor:
    """This rank's rows of a batch."""
    return rows[len(rows) * rank // size : len(rows) * (rank + 1) // size]


def train(table: ShardedTable, optimizer: RowAdagrad) -> list[float]:
    """Train by the plan; in the last step the last rank has all rows and the others none."""
    rank, size = table.place
    losses = []
    for step in range(STEPS):
        history, items = batch_of(step)
        rows = len(items)
        if step == STEPS - 1:
            history, items = (part if rank == size - 1 else part[:0] for part in (history, items))
        else:
            history, items = (share(part, rank, size) for part in (history, items))
        loss = loss_of(table.mean(history), table(items))
        loss.backward()
        optimizer.step(rows=rows)
        losses.append(float(loss.detach()))
    return losses


def main(job: str, folder: Path) -> None:
    """Train and save, or load and save elsewhere."""
    if Place.current() == (0, 1) and int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group("gloo")
    rank, size = Place.current()
    if job == "lose":
        if rank == 1:
            return  # without a word to the others
        table = ShardedTable(ROWS, DIM, seed=1)
        try:
            table(torch.arange(ROWS))
        except ConnectionError as error:
            (folder / "error").write_text(str(error))
        os._exit(0)  # gloo's threads still wait for the lost rank, and may abort a usual end
    if job == "train":
        table = ShardedTable(ROWS, DIM, seed=1).double()
        optimizer = RowAdagrad(table, rate=RATE)
        losses = train(table, optimizer)
        save_file({"losses": torch.tensor(losses, dtype=torch.float64)}, folder / f"{size}-{rank}.safetensors")
        save_table(table, folder / "table", optimizer.state())
    else:
        table, state = load_table(folder / "table")
        optimizer = RowAdagrad(table, rate=RATE)
        optimizer.load_state(state)
        save_table(table, folder / f"again-{size}", optimizer.state())
    if size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
