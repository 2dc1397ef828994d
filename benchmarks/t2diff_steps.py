"""Restored and true next items in training and when asked, side by side, by the step of the diffusion.

Each form of T2Diff is trained on MovieLens-100K at its defaults, and the cosine of every pass's answer with the truth
is taken twice: with the true drift under that step's noise, as the printed form is trained, and from pure noise on, as
every form is asked. Both over all places of the training windows, and at the place before the test item. ``--quick``:
one epoch of a small model.

    python benchmarks/t2diff_steps.py --out FILE.json
    python benchmarks/t2diff_steps.py --draw docs/images/t2diff-steps.svg     # of the kept result; trains nothing
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import common
import movielens
from twotower.core.files import read_json, replacing_file
from twotower.data.dataset import Dataset
from twotower.data.examples import SequenceRows
from twotower.data.split import Split
from twotower.data.splitters import leave_one_out
from twotower.experiment.learn import learn
from twotower.experiment.recipes import default_run
from twotower.experiment.run import ModelSection
from twotower.models.encode import inference, users_with_history
from twotower.models.t2diff import T2Diff

FORMS = ("predicted", "as_served", "printed")
PASSES = 10
"""Of the reverse process: T, and nine steps below it."""
QUICK = {"dim": 8, "channels": 8, "history_length": 20}
ROWS = 64
LINES = (
    ("in training: the true drift under noise", "training_windows", "trained"),
    ("asked, the same places", "training_windows", "asked"),
    ("asked, before the test item", "before_the_test_item", "asked"),
)
"""Lines of the picture: words, where, and which of the two cosines."""


def by_step(model: T2Diff, windows: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, dict[str, float]]:
    """Return both cosines of each step: means over the places of the windows, of history, next items and mask."""
    sums: dict[int, list[float]] = {}
    generator, places = torch.Generator().manual_seed(0), 0
    with inference(model):
        for history, following, mask in windows:
            part = model.next_item
            assert part is not None
            noise = torch.randn(part.draws, *history.shape, model.item_table.dim, generator=generator)
            count = int(mask.sum())
            found = part.by_step(model.embedded(history), model.embedded(following), mask, noise)
            places += count
            for step, pair in found.items():
                sums[step] = [a + count * b for a, b in zip(sums.get(step, [0.0, 0.0]), pair, strict=True)]
    return {str(step): {"trained": one / places, "asked": other / places} for step, (one, other) in sums.items()}


def windows_of(model: T2Diff, dataset: Dataset, split: Split) -> dict[str, list[tuple[Tensor, Tensor, Tensor]]]:
    """Return the windows of training with all their places, and those of the test with their last place alone."""
    rows = SequenceRows(dataset, split.train, history_length=model.history_length or 0, item_features=False)
    batches = [rows.cut(some) for some in torch.arange(len(rows)).split(ROWS)]
    trained = [(batch.users.history, batch.items.ids, batch.items.ids > 0) for batch in batches]
    tested, truth = [], split.test.truth
    for ids in split.test.users().split(ROWS):
        history = users_with_history(dataset, split.test.history, ids, model.history_length).history
        last = torch.arange(history.shape[1]) == (history > 0).sum(1, keepdim=True) - 1
        following = torch.where(last, truth.items[truth.offsets[ids]][:, None], 0)
        tested.append((history, following, last))
    return {"training_windows": trained, "before_the_test_item": tested}


def draw(found: Mapping[str, Any], target: Path) -> None:
    """Write the picture as SVG: a panel a form that has steps, the cosine in training and when asked side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    forms = ("printed", "as_served")
    guess = found["predicted"]["before_the_test_item"]["0"]["asked"]
    for panel, form in zip(figure.subplots(1, 2, sharey=True), forms, strict=True):
        for words, where, which in LINES:
            steps = found[form][where]
            panel.plot([int(step) for step in steps], [pair[which] for pair in steps.values()], marker="o", label=words)
        panel.axhline(guess, color="gray", linestyle="--", label="plain prediction, asked before the test item")
        panel.invert_xaxis()
        panel.set_xlabel("step of the diffusion, from pure noise on")
        panel.set_title(f'restored = "{form}"')
        panel.grid(alpha=0.3)
    figure.axes[0].set_ylabel("cosine of restored and true next item")
    figure.axes[0].legend(fontsize="small")
    with replacing_file(target) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})


def main() -> int:
    """Measure, print, keep."""
    made = common.parser(__doc__)
    made.add_argument("--data", type=Path, help="prepared MovieLens-100K; default: the shared copy, or a random log")
    made.add_argument("--epochs", type=int, default=5)
    made.add_argument("--draw", type=Path, help="write the picture of the kept result here, and nothing else")
    options = common.parse(made)
    if options.draw:
        draw(read_json(options.out or common.RESULTS / "t2diff_steps.json"), options.draw)
        return 0
    dataset, real = movielens.load("ml-100k", options.data)
    split = leave_one_out(dataset.log)
    figures: dict[str, Any] = {}
    for form in FORMS:
        run = default_run("t2diff")
        passes = {} if form == "predicted" else {"restore_steps": PASSES}
        settings = {"restored": form} | passes | (QUICK if options.quick else {})
        training = replace(run.training, epochs=1 if options.quick else options.epochs, evaluate_every=0, patience=0)
        run = replace(run, model=ModelSection("t2diff", settings), training=replace(training, device="cpu"))
        model, _ = learn(run, dataset, split)
        assert isinstance(model, T2Diff)
        figures[form] = {place: by_step(model, some) for place, some in windows_of(model, dataset, split).items()}
        print(form, figures[form], file=sys.stderr, flush=True)
    settings = {"epochs": 1 if options.quick else options.epochs, "passes": PASSES, "real": real}
    common.finish("t2diff_steps", options, settings=settings, figures=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
