"""T2Diff: a user tower that reads a predicted next item, restored by diffusion, beside the history."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.records import PADDING, Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.models.sequence_model import SequenceModel
from twotower.ops.beside import beside
from twotower.ops.windows import longest_of
from twotower.towers.diffusion.restore import FORMS, NextItem
from twotower.towers.sequence.base import check_settings, check_weights
from twotower.towers.sequence.causal import CausalTransformer
from twotower.towers.sequence.mixed_attention import MixedAttention

ATTENTION = ("causal", "mixed")
NONE = "none"
"""Stands for `restored` where nothing is restored."""
WITH_NOISE = ("printed", "as_served")
"""Forms that run a diffusion, and so read its schedule, steps, passes and seed."""


class T2Diff(SequenceModel):
    """Restore the next item from the history, then encode both; L = L_tower + λ · L_diffusion.

    Trained at every place of a window, as all sequential models are. An empty history gives the zero vector.

    **The default is not what the paper prints**, since that fails once it is served. As printed, the tower reads in
    training what one pass makes of the true drift plus noise, and so reads the answer; when asked there is none.
    Measured on MovieLens-1M at width 64 (NDCG@10; SASRec 0.168): ``restored = "printed"`` with ``attention = "mixed"``
    0.017; trained on what pure noise gives, as in serving ("as_served"), 0.131, and 0.170 with ``attention =
    "causal"`` and normalised vectors; the same U-Net as a plain predictor without noise ("predicted", causal) 0.173.
    What helps is the guess, not the diffusion: hence the default. See `docs/concepts/sequential.md`.

    Gradients stop on both sides of the restoring network: the item table and the tower learn from L_tower alone, the
    U-Net from L_diffusion alone. So λ scales the U-Net's gradient and nothing else, and an optimiser that divides by
    the gradient's size (Adam) hardly notices it.

    Source: Wang et al., "Unleashing the potential of two-tower models: diffusion-based cross-interaction for
    large-scale matching", WWW 2025. Differences: those above, and see `NextItem`, `UNet` and `MixedAttention`; the two
    towers share the item table; the paper gives no sizes.

    Args:
        restored: "predicted", "as_served" or "printed": see `NextItem`; "none": nothing, mixed attention alone.
        attention: "causal": SASRec's tower over the whole history, to whose last state the restored item is added
            through a linear map that starts at 0; "mixed": the paper's, see `MixedAttention`.
        dim: width of vectors and of all layers.
        layers: attention blocks.
        heads: attention heads; must divide ``dim``.
        dropout: share of numbers set to 0 in training.
        feed_forward: width of the hidden feed-forward layer, in multiples of ``dim``.
        relative: whether "causal" attention has the biases of place and time of HSTU.
        block: "plain", "ligr" or "hstu": the blocks of "causal" attention, see `CausalTransformer`.
        session: latest events that mixed attention takes for the session, at most ``history_length``.
        session_gap: seconds that part sessions, for mixed attention; 0: by number alone.
        drift: restore the drift to the next item (as in the paper) and not the item itself.
        normalise: bring item vectors to unit variance before the diffusion.
        schedule: of the noise: "exponential", "linear" or "logarithmic", from ``first_beta`` to ``last_beta``. This,
            ``noise_steps``, ``restore_steps``, ``eta`` and ``noise_seed`` are of the forms with noise and refused else.
        noise_steps: T.
        restore_steps: passes of the reverse process, when asked and in "as_served"; at most T.
        eta: 0: no fresh noise in the reverse process; 1: all of it.
        channels: width of the U-Net, as ``depth`` is its halvings and ``kernel`` its kernels' places.
        diffusion_weight: λ.
        noise_seed: of the fixed noise that asking starts from.
        item_features: whether items are read by their features too, as candidates and in histories; the diffusion then
            restores vectors that know them.
        time_gaps: whether the tower is told how long after the one before each event came; the diffusion is not.
        history_length: positions of a window.
        targets: places of a window that the tower is asked for in a training step, drawn anew each time; 0: all of
            them. The diffusion learns from all.
    """

    no_onnx = "its U-Net halves the length of the history step by step, which a graph of free sizes cannot follow"

    def __init__(
        self,
        schema: Schema,
        *,
        restored: str = "predicted",
        attention: str = "causal",
        dim: int = 64,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.2,
        feed_forward: int = 1,
        relative: bool = False,
        block: str = "plain",
        session: int = 20,
        session_gap: int = 0,
        drift: bool = True,
        normalise: bool = True,
        schedule: str = "exponential",
        noise_steps: int = 50,
        first_beta: float = 1e-4,
        last_beta: float = 0.999,
        restore_steps: int = 4,
        eta: float = 0.0,
        channels: int = 64,
        depth: int = 2,
        kernel: int = 3,
        diffusion_weight: float = 1.0,
        noise_seed: int = 0,
        item_features: bool = False,
        time_gaps: bool = False,
        history_length: int = 50,
        targets: int = 0,
    ) -> None:
        check_settings(
            share=dropout,
            dim=dim,
            layers=layers,
            heads=heads,
            feed_forward=feed_forward,
            session=session,
            history_length=history_length,
        )
        if restored not in (*FORMS, NONE):
            raise ValueError(f"restored must be one of {', '.join((*FORMS, NONE))}, got {restored!r}")
        if attention not in ATTENTION:
            raise ValueError(f"attention must be one of {', '.join(ATTENTION)}, got {attention!r}")
        if attention == "mixed" and session > history_length:
            raise ValueError(f"session must be at most history_length = {history_length}, got {session}")
        if attention == "mixed" and relative:
            raise ValueError("relative = true has no effect with attention = 'mixed'; leave it out")
        if attention == "mixed" and block != "plain":
            raise ValueError(f"block = '{block}' has no effect with attention = 'mixed'; leave it out")
        if attention == "causal" and restored == NONE:
            raise ValueError("restored = 'none' with attention = 'causal' is model 'sasrec': name that one")
        if attention == "causal" and session_gap:
            raise ValueError(f"session_gap = {session_gap} has no effect with attention = 'causal'; leave it out")
        if session_gap and not schema.has_times:
            raise ValueError(
                f"session_gap = {session_gap} needs times, and this log has none: set model.session_gap = 0 (sessions "
                "by number of events)"
            )
        noise: dict[str, Any] = {
            "schedule": schedule,
            "noise_steps": noise_steps,
            "first_beta": first_beta,
            "last_beta": last_beta,
            "restore_steps": restore_steps,
            "eta": eta,
            "noise_seed": noise_seed,
        }
        if restored not in WITH_NOISE:
            for name, value in noise.items():
                if value != signature(T2Diff).parameters[name].default:
                    raise ValueError(f"{name} = {value} has no effect with restored = {restored!r}; leave it out")
        check_weights(diffusion_weight=diffusion_weight)
        super().__init__(schema, dim=dim, item_features=item_features, time_gaps=time_gaps, targets=targets)
        self.history_length = history_length
        self.diffusion_weight = diffusion_weight
        blocks = {"dim": dim, "layers": layers, "heads": heads, "feed_forward": feed_forward}
        if attention == "mixed":
            self.tower: nn.Module = MixedAttention(session=session, gap=session_gap, dropout=dropout, **blocks)
        else:
            self.tower = CausalTransformer(
                length=history_length, dropout=dropout, relative=relative, block=block, **blocks
            )
            self.mix = nn.Linear(dim, dim, bias=False)
            nn.init.zeros_(self.mix.weight)
        self.next_item: NextItem | None = None
        if restored != NONE:
            self.next_item = NextItem(
                dim=dim,
                length=history_length,
                form=restored,
                drift=drift,
                normalise=normalise,
                schedule=schedule,
                noise_steps=noise_steps,
                first_beta=first_beta,
                last_beta=last_beta,
                restore_steps=restore_steps,
                eta=eta,
                channels=channels,
                depth=depth,
                kernel=kernel,
                seed=noise_seed,
            )

    def encode_users(self, users: Users) -> Float[Tensor, "rows dim"]:
        """Return the state after the latest item: one vector a user."""
        history = users.history[:, : self.history_length]
        lengths = (history != PADDING).sum(dim=1)
        longest = longest_of(lengths, history.shape[1])
        history = history[:, :longest]
        times = None if users.history_times is None else users.history_times[:, :longest]
        vectors = self.embedded(history)
        guess = beside(lambda: self._guessed(vectors, lengths), like=vectors)
        events = self.timed(vectors, times)
        if isinstance(self.tower, MixedAttention):
            end = (lengths - 1).clamp(min=0)[:, None]
            guessed = guess()
            states = self.tower(events, None if guessed is None else guessed[:, None], end, times)[:, 0]
        else:
            assert isinstance(self.tower, CausalTransformer)
            states = self.tower.at_end(events, lengths, times) + self.mix(guess())
        return states * (lengths > 0)[:, None]

    def _guessed(self, vectors: Tensor, lengths: Tensor) -> Tensor | None:
        """The next item's vector after the latest event, or None where nothing is restored."""
        return None if self.next_item is None else self.next_item.at_end(vectors, lengths)

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return the item's vector."""
        return self.item_vectors(items)

    def forward(self, batch: Batch) -> Encoded:
        """Encode one row a position that has a next item; L_diffusion is the model's own loss.

        A row is the position's state, and that item.
        """
        history, targets, pairs = batch.users.history, batch.items.ids, batch.pairs
        mask = targets != PADDING
        if pairs is None:
            pairs = mask.flatten().nonzero()[:, 0]
        vectors, times = self.embedded(history), batch.users.history_times
        guesses: Tensor | None = None
        losses: dict[str, Tensor] = {}
        if self.next_item is not None:
            guesses, loss = self.next_item.learn(vectors, self.embedded(targets), mask)
            losses = {"diffusion": self.diffusion_weight * loss}
        states = self.positions(self.timed(vectors, times), guesses, times)
        ids = targets.flatten()[pairs]
        items = None if batch.items.features is None else self.item_vectors(Items(ids))
        rows = states.flatten(0, 1).index_select(0, pairs)
        return self.asked_for(Encoded(rows, items, ids, losses, pairs // targets.shape[1]))

    def positions(
        self,
        events: Float[Tensor, "rows length dim"],
        guesses: Float[Tensor, "rows length dim"] | None,
        times: Tensor | None = None,
    ) -> Float[Tensor, "rows length dim"]:
        """Return the state after each event, given its prediction of the next one; meaningless where it is padded.

        ``guesses`` is None where the model restores nothing.
        """
        if isinstance(self.tower, MixedAttention):
            places = torch.arange(events.shape[1], device=events.device).expand(events.shape[:2])
            return self.tower(events, guesses, places, times)
        states: Tensor = self.tower(events, None, times) + self.mix(guesses)
        return states
