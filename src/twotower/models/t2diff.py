"""T2Diff: a user tower that reads a predicted next item, restored by diffusion, beside the history."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.records import PADDING, Batch, Encoded, Items, Users
from twotower.core.schema import Schema
from twotower.models.base import Model
from twotower.ops.windows import longest_of
from twotower.towers.diffusion.restore import NextItem
from twotower.towers.sequence.base import check_settings
from twotower.towers.sequence.causal import CausalTransformer
from twotower.towers.sequence.mixed_attention import MixedAttention
from twotower.towers.table import DenseTable

ATTENTION = ("causal", "mixed")


class T2Diff(Model):
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
        restored: "predicted", "as_served" or "printed": see `NextItem`.
        attention: "causal": SASRec's tower over the whole history, to whose last state the restored item is added
            through a linear map that starts at 0; "mixed": the paper's, see `MixedAttention`.
        dim: width of vectors and of all layers.
        layers: attention blocks.
        heads: attention heads; must divide ``dim``.
        dropout: share of numbers set to 0 in training.
        feed_forward: width of the hidden feed-forward layer, in multiples of ``dim``.
        session: latest events that mixed attention takes for the session, at most ``history_length``.
        session_gap: seconds that part sessions, for mixed attention; 0: by number alone.
        drift: restore the drift to the next item (as in the paper) and not the item itself.
        normalise: bring item vectors to unit variance before the diffusion.
        schedule: of the noise: "exponential", "linear" or "logarithmic", from ``first_beta`` to ``last_beta``.
        noise_steps: T.
        restore_steps: passes of the reverse process, when asked and in "as_served"; at most T.
        eta: 0: no fresh noise in the reverse process; 1: all of it.
        channels: width of the U-Net, as ``depth`` is its halvings and ``kernel`` its kernels' places.
        diffusion_weight: λ.
        noise_seed: of the fixed noise that asking starts from.
        history_length: positions of a window.
    """

    batches = "sequences"
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
        history_length: int = 50,
    ) -> None:
        super().__init__()
        check_settings(
            share=dropout,
            dim=dim,
            layers=layers,
            heads=heads,
            feed_forward=feed_forward,
            session=session,
            history_length=history_length,
        )
        if attention not in ATTENTION:
            raise ValueError(f"attention must be one of {', '.join(ATTENTION)}, got {attention!r}")
        if attention == "mixed" and session > history_length:
            raise ValueError(f"session must be at most history_length = {history_length}, got {session}")
        if attention == "causal" and session_gap:
            raise ValueError(f"session_gap = {session_gap} has no effect with attention = 'causal'; leave it out")
        if not 0.0 <= diffusion_weight < float("inf"):
            raise ValueError(f"diffusion_weight must be finite and at least 0, got {diffusion_weight}")
        self.schema = schema
        self.history_length = history_length
        self.diffusion_weight = diffusion_weight
        self.item_table = DenseTable(schema.num_items, dim, std=0.02)
        blocks = {"dim": dim, "layers": layers, "heads": heads, "feed_forward": feed_forward}
        if attention == "mixed":
            self.tower: nn.Module = MixedAttention(session=session, gap=session_gap, dropout=dropout, **blocks)
        else:
            self.tower = CausalTransformer(length=history_length, dropout=dropout, **blocks)
            self.mix = nn.Linear(dim, dim, bias=False)
            nn.init.zeros_(self.mix.weight)
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
        events = self.embedded(history)
        guess = self.next_item.at_end(events, lengths)
        if isinstance(self.tower, MixedAttention):
            end = (lengths - 1).clamp(min=0)[:, None]
            states = self.tower(events, guess[:, None], end, times)[:, 0]
        else:
            assert isinstance(self.tower, CausalTransformer)
            states = self.tower.at_end(events, lengths, times) + self.mix(guess)
        return states * (lengths > 0)[:, None]

    def encode_items(self, items: Items) -> Float[Tensor, "rows dim"]:
        """Return the item's embedding."""
        return self.item_table(items.ids)

    def forward(self, batch: Batch) -> Encoded:
        """Encode one row a position that has a next item; L_diffusion is the model's own loss.

        A row is the position's state, and that item.
        """
        history, targets, pairs = batch.users.history, batch.items.ids, batch.pairs
        mask = targets != PADDING
        if pairs is None:
            pairs = mask.flatten().nonzero()[:, 0]
        events = self.embedded(history)
        guesses, loss = self.next_item.learn(events, self.embedded(targets), mask)
        states = self.positions(events, guesses, batch.users.history_times)
        ids = targets.flatten()[pairs]
        items = None if batch.items.features is None else self.item_table(ids)
        losses = {"diffusion": self.diffusion_weight * loss}
        return Encoded(states.flatten(0, 1).index_select(0, pairs), items, ids, losses, pairs // targets.shape[1])

    def positions(
        self,
        events: Float[Tensor, "rows length dim"],
        guesses: Float[Tensor, "rows length dim"],
        times: Tensor | None = None,
    ) -> Float[Tensor, "rows length dim"]:
        """Return the state after each event, given its prediction of the next one; meaningless where it is padded."""
        if isinstance(self.tower, MixedAttention):
            places = torch.arange(events.shape[1], device=events.device).expand(events.shape[:2])
            return self.tower(events, guesses, places, times)
        states: Tensor = self.tower(events, None, times) + self.mix(guesses)
        return states

    def embedded(self, history: Tensor) -> Float[Tensor, "rows length dim"]:
        """Return the items' vectors as the tower reads them."""
        return self.item_table(history) * self.item_table.dim**0.5
