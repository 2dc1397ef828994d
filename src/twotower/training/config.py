"""Sections of a run that training reads: objective, sampling, training."""

from __future__ import annotations

from dataclasses import dataclass, field

from twotower.core.errors import InputError, shown, unknown_name
from twotower.losses.registry import LOSSES
from twotower.training.sources import NegativeSource, unrepeated

OPTIMIZERS = ("adam", "adamw", "adagrad", "sgd")
SCHEDULES = ("constant", "linear", "cosine")
ROW_STATES = ("float32", "bfloat16")
PRECISIONS = ("float32", "bfloat16")
PLACES = ("auto", "device", "host")
CAPTURES = ("auto", "on", "off")
REGULARISERS = ("uniformity", "decorrelation", "centring")
GEOMETRY = ("off", "record", "warn", "stop")
FREQUENCIES = ("counts", "streaming")
BATCHES = ("random", "clustered")
HARD = ("none", "hardest", "radius", "batch_radius", "margin", "below_positive")


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise unknown_name(name, value, known)


def _at_least(name: str, value: int | float, low: int | float) -> None:
    if not value >= low or value == float("inf"):
        raise InputError(f"{name} must be at least {low}, got {value}")


@dataclass(frozen=True)
class Objective:
    """Configure what training minimises."""

    loss: str = "full_softmax"
    """full_softmax (every item is a negative), or one against samples: sampled_softmax, bce (the log's own labels
    where it has them), gbce, bpr, triplet."""
    regularise: dict[str, float] = field(default_factory=dict)
    """Weights of terms that keep the vectors of a batch apart: uniformity, decorrelation, centring; none by default."""

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise unknown_name("objective.loss", self.loss, LOSSES)
        for name, weight in self.regularise.items():
            _choice("objective.regularise", name, REGULARISERS)
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise InputError(f"objective.regularise.{name} must be a number, got {shown(weight)}")
            _at_least(f"objective.regularise.{name}", weight, 0.0)


@dataclass(frozen=True)
class Sampling:
    """Configure the sources of negatives; read by every loss but full_softmax."""

    sources: tuple[NegativeSource, ...] = (NegativeSource("in_batch"),)
    """Where negatives come from: names, or a table each with the settings of that source (see the section
    sampling.sources); several are joined under one softmax."""
    correct: bool = True
    """Whether log q is subtracted from the logits of negatives."""
    correct_positive: bool = False
    """Whether log q is subtracted from the positive's logit too (Yi et al., 2019); by default it stands apart."""
    frequency: str = "counts"
    """What log q of in_batch, mixed and memory_bank rests on: counts of the training log, or a streaming estimate."""
    batches: str = "random"
    """Which rows share a batch: random, or clustered by user vectors as in NGAME (see the section clusters)."""
    hard: str = "none"
    """Which candidates of a row still count: none (all do), hardest (the best-scored hard_number), radius (no farther
    than the farthest of all the user's positives), batch_radius (no farther than the farthest of those in the step),
    margin (scores above the positive less hard_margin), below_positive (scores of at most the positive less
    hard_margin)."""
    hard_number: int = 10
    """Candidates that hardest keeps for a row."""
    hard_margin: float = 0.3
    """In units of the scores, before the temperature; read by margin and below_positive."""

    def __post_init__(self) -> None:
        for name, low in (
            ("hard_number", 1),
            ("hard_margin", 0.0),
        ):
            _at_least(f"sampling.{name}", getattr(self, name), low)
        _choice("sampling.frequency", self.frequency, FREQUENCIES)
        _choice("sampling.batches", self.batches, BATCHES)
        _choice("sampling.hard", self.hard, HARD)
        named = tuple(NegativeSource(part) if isinstance(part, str) else part for part in self.sources)
        object.__setattr__(self, "sources", unrepeated(named))
        if self.correct_positive and not self.correct:
            raise InputError("sampling.correct_positive needs sampling.correct")

    def source(self, *names: str) -> NegativeSource | None:
        """Return the first source of these names; None where there is none."""
        return next((source for source in self.sources if source.name in names), None)


@dataclass(frozen=True)
class Training:
    """Configure training: duration, learning rate, batches, precision and device."""

    epochs: int = 20
    """Passes over the training rows, at most."""
    batch_size: int = 256
    """Rows a step: events, or users' windows for causal models."""
    encode_rows: int = 0
    """Users and items that are encoded at a time in a step; what lies between layers is dropped and computed again for
    the gradients (gradient caching), so that batches may be much larger than the device holds. 0: all at once."""
    learning_rate: float = 1e-3
    """The highest that the schedule reaches."""
    optimizer: str = "adamw"
    """adam, adamw, adagrad or sgd."""
    weight_decay: float = 0.0
    """Decoupled for adamw, L2 for the others."""
    row_rate: float = 0.0
    """Learning rate of row-wise Adagrad, which trains the rows of sparse, host and sharded tables (model.table); it
    follows the schedule. 0: learning_rate."""
    row_state: str = "float32"
    """What row-wise Adagrad keeps for each row: float32, or bfloat16."""
    schedule: str = "constant"
    """constant, linear or cosine decay to zero over all epochs, after the warm-up."""
    warmup_steps: int = 0
    """Optimiser steps in which the rate grows from zero."""
    clip_norm: float = 0.0
    """Gradients are scaled down to this norm at most; 0: they are not."""
    precision: str = "float32"
    """float32, or bfloat16 for matrix products (weights and sums stay float32)."""
    compile: bool = False
    """Whether the encoders of a full batch go through torch.compile; worth it for deep encoders and many steps."""
    capture: str = "auto"
    """Whether a training step on a GPU is captured as one CUDA graph and replayed, which is worth it where steps are
    small: auto (for models that are known to take the same step each time), on or off."""
    data: str = "auto"
    """Where events and user features lie while a GPU trains: device, host (batches are cut in main memory and copied
    ahead of the steps), or auto: on the device where they take no more than half of its free memory."""
    patience: int = 0
    """Evaluations without a better validation metric before training stops; 0: never."""
    patience_steps: int = 100
    """Optimiser steps that must lie between two evaluations for patience to count both: on a small log an epoch is
    short, and several in a row say little."""
    patience_loss: float = 0.01
    """Training goes on, whatever its patience, while its loss falls by more than this share from one evaluation to the
    next; 0: the loss is not asked."""
    metric: str = "ndcg@10"
    """Validation metric that picks the best epoch, such as hr@20; labelled pairs have auc (there the default) and
    gauc."""
    evaluate_every: int = 1
    """Epochs between validations; 0: none, and the last weights are kept."""
    geometry: str = "off"
    """Whether each evaluation looks at the item vectors: off, record (figures in the log), warn when they collapse, or
    stop then."""
    refit: bool = False
    """Whether to train once more, on training and validation events, for as many epochs as were best on validation."""
    checkpoint_seconds: float = 60.0
    """Wall seconds between checkpoints; one is also written after each validation."""
    seed: int = 0
    """Gives every generator of the run."""
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        _choice("training.optimizer", self.optimizer, OPTIMIZERS)
        _choice("training.row_state", self.row_state, ROW_STATES)
        _choice("training.schedule", self.schedule, SCHEDULES)
        _choice("training.precision", self.precision, PRECISIONS)
        _choice("training.data", self.data, PLACES)
        _choice("training.capture", self.capture, CAPTURES)
        _choice("training.geometry", self.geometry, GEOMETRY)
        for name, low in (
            ("epochs", 1),
            ("batch_size", 1),
            ("encode_rows", 0),
            ("warmup_steps", 0),
            ("patience", 0),
            ("patience_steps", 0),
            ("evaluate_every", 0),
        ):
            _at_least(f"training.{name}", getattr(self, name), low)
        for name in ("learning_rate", "weight_decay", "clip_norm", "checkpoint_seconds", "patience_loss", "row_rate"):
            _at_least(f"training.{name}", getattr(self, name), 0.0)
        if self.patience and not self.evaluate_every:
            raise InputError("training.patience needs validations, but training.evaluate_every is 0")
        if self.refit and not self.evaluate_every:
            raise InputError("training.refit needs validations, but training.evaluate_every is 0")
