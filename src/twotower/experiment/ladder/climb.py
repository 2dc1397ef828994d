"""The ladder: closed forms, trained models, variants of the best and a mixture, and how time is shared among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from twotower.core.durations import clock
from twotower.core.errors import InputError
from twotower.core.records import FIRST_KNOWN
from twotower.data.dataset import Dataset
from twotower.data.split import Split
from twotower.experiment.catalogue import split_of
from twotower.experiment.defaults import spelled_out
from twotower.experiment.ladder.blend import MIXTURE, Mixed, mix, mixed_rung, pairs_of
from twotower.experiment.ladder.budget import Budget
from twotower.experiment.ladder.costs import SEARCHED, dearest, last_fit_seconds, seconds_of_fit
from twotower.experiment.ladder.rungs import METRIC, Rung, is_closed, rung_run, stored, trained_rung
from twotower.experiment.run import Run
from twotower.models.registry import model_class
from twotower.training.callbacks import Callback

LADDER = ("popularity", "item_cosine", "item_lists", "ease", "sparse_ease", "two_tower", "sasrec")
"""The models that `twotower fit` tries, simplest first: where the difference is noise the earlier one is taken. Another
joins by its name; closed forms come before those that are trained. A mixture of the best comes last."""

STANDS_IN = {"sparse_ease": "ease"}
"""Models that are tried only where another could not be: its form for catalogues that are too large for it."""

WITHOUT_FEATURES: dict[str, tuple[str, ...]] = {"two_tower": ("model.init=auto", "training.learning_rate=0.003")}
"""Changes of a model's default run where items have no features, chosen on the validation of twelve such logs."""

WITH_FEATURES: dict[str, tuple[str, ...]] = {"two_tower": ("model.id_dropout=0.3",)}
"""And where they have some, so that new items are found by them: chosen on held-out items of three such logs."""

VARIANTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "item_cosine": (("model.shrink=100.0",), ("model.shrink=0.0",)),
    "item_lists": (
        ("model.shrink=10.0",),
        ("model.ahead=true",),
        ("model.ahead=true", "model.decay=0.6"),
        ("model.flat=true",),
        ("model.window=30",),
        ("model.decay=0.5",),
        ("model.decay=0.95", "model.history_length=50"),
    ),
    "two_tower": (
        ("model.init=auto", "training.learning_rate=0.003"),
        ("model.init=drawn", "training.learning_rate=0.01"),
        ("model.temperature=0.08",),
        ("model.temperature=0.18",),
    ),
    "sasrec": (("model.dropout=0.3",),),
}
"""What is tuned with the time that the ladder leaves, best models first: changes of a model's default run. Each is a
rung of its own, less simple than the default, so that it is taken where validation users speak for it. A closed form
with one open number chooses that by itself."""

LEAST_SECONDS = 3.0
"""With less than this a model is not trained at all."""

LEAST_CLOSED_SECONDS = 10.0
"""A closed form that takes no longer is fitted whatever the budget."""

MIXING = 0.05
"""Share of the budget that is kept for mixing."""

Watch = Callable[[str], Sequence[Callback]]
"""Callbacks for a model's training, by its name."""


class Ladder:
    """Hold the models of one fit, each a bundle in a folder; what an earlier call has done is read from there.

    Args:
        dataset: prepared, with a folder.
        folder: of the bundles.
        budget: of the whole ladder and the last fit.
        mask_seen: whether answers leave out what the user has seen.
        watch: further callbacks.
        tell: hears which model begins, and how long it may take.
        done: hears each rung.
    """

    def __init__(
        self,
        dataset: Dataset,
        folder: Path,
        budget: Budget,
        *,
        mask_seen: bool = True,
        device: str = "auto",
        watch: Watch = lambda name: (),
        tell: Callable[[str], None] = lambda text: None,
        done: Callable[[Rung], None] = lambda rung: None,
    ) -> None:
        self.dataset, self.folder, self.budget, self.mask_seen = dataset, folder, budget, mask_seen
        self.device, self.watch, self.tell, self.done = device, watch, tell, done
        self.split: Split = split_of(self._run(LADDER[0]), dataset)
        self.growth = dataset.log.num_events / max(1, self.split.train.num_events)
        """Events that the last fit learns from, over those of the training split."""
        self._rungs: dict[tuple[int, int], Rung] = {}

    @property
    def rungs(self) -> list[Rung]:
        """Return what is done, simplest first; a variant follows the default of its model."""
        return [rung for _, rung in sorted(self._rungs.items())]

    def climb(self) -> None:
        """Train the ladder, then variants of its models for as long as there is time, then mix the best.

        Closed forms come first and are fitted whatever the budget, save where the size of the catalogue says that one
        fit takes more than half of what is left; a third of it is for the search for a penalty. The others share the
        rest evenly, and one such part is kept for the last fit of the winner, which may be mixed with a closed form.

        Raises:
            KeyboardInterrupt: after Ctrl-C; the checkpoint of a training is kept, and goes on with the next call.
        """
        for place, model in enumerate(LADDER):
            if self._has(STANDS_IN.get(model, "")):
                continue
            share = self._share(place)
            self._step(place, 0, model, (), share, self._left_out(model, share))
        best_first = sorted(
            (key for key, rung in self._rungs.items() if rung.validation is not None),
            key=lambda key: -_figure(self._rungs[key]),
        )
        for place, _ in best_first:
            model = LADDER[place]
            for number, settings in enumerate(VARIANTS.get(model, ()), start=1):
                self._try_variant(place, number, model, settings)
        self._mix()

    def _share(self, place: int) -> float:
        """Seconds for the model at this place of the ladder."""
        left = self.budget.left
        if is_closed(LADDER[place]):
            return left / 3
        waiting = sum(not is_closed(other) and self._can_learn(other) for other in LADDER[place:])
        share = min((self._free() - self._dearest()) / max(1, waiting), self._free() / (waiting + 1))
        return max(share, min(LEAST_SECONDS, left / (waiting + 1)))

    def _free(self) -> float:
        """Seconds for trainings and the last fit of one, once mixing and the last fit of a closed form are paid."""
        closed = dearest(self.rungs, closed=True, growth=self.growth)
        return self.budget.left - MIXING * self.budget.seconds - closed

    def _dearest(self) -> float:
        """Seconds of the last fit of the dearest model that is trained so far."""
        return dearest(self.rungs, closed=False, growth=self.growth)

    def _can_learn(self, model: str) -> bool:
        """Whether the log tells what the model learns from."""
        return model_class(model).batches != "sequences" or self.dataset.is_ordered

    def _has(self, model: str) -> bool:
        """Whether the model was learnt, and not left out."""
        return any(rung.model == model and rung.validation is not None for rung in self._rungs.values())

    def _mix(self) -> None:
        """Mix the best with each of the next while there is time, a few evaluations each; keep the best mixture."""
        to = self._bundle(MIXTURE, 0)
        known = (to / "manifest.json").is_file()
        best: Mixed | None = None
        left_out, took = "the budget leaves no time to mix; raise --budget", LEAST_SECONDS
        pairs = pairs_of(self.rungs)
        for parts in pairs:
            last = [last_fit_seconds(part, growth=self.growth) or 0.0 for part in parts]
            if not any(is_closed(part.model) for part in parts) and self.budget.left - took < sum(last) and not known:
                left_out = f"no time to train {parts[0].name} and {parts[1].name} again on all events; raise --budget"
                continue
            if self.budget.left - (0.0 if best is None else sum(last)) < took and not known:
                break
            self.tell(f"{MIXTURE} of {parts[0].name} and {parts[1].name}: {clock(self.budget.left)} left")
            try:
                mixed = mix(parts, self._run(MIXTURE), self.dataset, self.split)
            except InputError as error:
                left_out = str(error)
                continue
            took = max(LEAST_SECONDS, mixed.seconds)
            if best is None or mixed.validation.metrics[METRIC] > best.validation.metrics[METRIC]:
                best = mixed
        if pairs:
            rung = (
                Rung(MIXTURE, MIXTURE, to, left_out=left_out)
                if best is None
                else mixed_rung(best, to, self.dataset, self.split)
            )
            self._rungs[len(LADDER), 0] = rung
            self.done(rung)

    def _try_variant(self, place: int, number: int, model: str, settings: tuple[str, ...]) -> None:
        default = self._rungs[place, 0]
        share = min(self._free() - self._dearest(), self._free() / 2)  # its own last fit may be as long as it
        known = (self._bundle(model, number) / "manifest.json").is_file()
        if known or (not default.short and share >= max(LEAST_SECONDS, default.seconds)):
            self._step(place, number, model, settings, share, "")

    def _step(
        self, place: int, number: int, model: str, settings: tuple[str, ...], share: float, left_out: str
    ) -> None:
        name = " ".join([model, *(setting.partition(".")[2] for setting in settings)])
        to = self._bundle(model, number)
        try:
            run = self._run(model, settings)
            if settings and spelled_out(run) == spelled_out(self._run(model)):
                return
            if (to / "manifest.json").is_file():
                rung = stored(name, to, run, self.dataset, self.split)
            elif left_out:
                rung = Rung(name, model, to, left_out=left_out)
            else:
                most = "" if is_closed(model) else f", at most {clock(share)} for it"
                self.tell(f"{name}: {clock(self.budget.left)} left{most}")
                rung = trained_rung(name, to, run, self.dataset, seconds=share, callbacks=self.watch(name))
        except InputError as error:
            rung = Rung(name, model, to, left_out=str(error))
        self._rungs[place, number] = rung
        self.done(rung)

    def _bundle(self, model: str, number: int) -> Path:
        return self.folder / (f"{model}-{number}" if number else model)

    def _run(self, model: str, settings: Sequence[str] = ()) -> Run:
        known = WITH_FEATURES if self.dataset.schema.item_features else WITHOUT_FEATURES
        settings = [*known.get(model, ()), *settings, f"training.device={self.device}"]
        return rung_run(model, self.dataset.folder or Path(), settings=settings, mask_seen=self.mask_seen)

    def _left_out(self, model: str, share: float) -> str:
        """Why a model is not tried; empty: it is."""
        if not self._can_learn(model):
            return "it learns from order, and the log has none; name a time column"
        if not is_closed(model):
            return "" if share >= LEAST_SECONDS else "the budget leaves no time to train it; raise --budget"
        items = self.dataset.schema.num_items - FIRST_KNOWN
        needed = seconds_of_fit(model, items)
        if needed > max(LEAST_CLOSED_SECONDS, self.budget.left / 2):
            what = "one fit" if model in SEARCHED else "it"
            wanted = clock(self.budget.spent + 2 * needed)
            return f"for {items:,} items {what} would take about {clock(needed)}; raise --budget beyond {wanted}"
        return ""


def _figure(rung: Rung) -> float:
    return float("-inf") if rung.validation is None else rung.validation.metrics[METRIC]
