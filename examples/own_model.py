"""A model of your own: users and items are points, and the score is the negative squared distance.

Run it with ``python examples/own_model.py``. Another process opens the bundle after ``import own_model``.
"""

from __future__ import annotations

import torch
from own_data_frame import listening_log
from torch import Tensor, nn

import twotower
from twotower.core.records import Items, Users
from twotower.core.schema import Schema


@twotower.MODELS.register("nearest")
class Nearest(twotower.Model):
    """Users near items: score = -|u - v|². Its keyword arguments are its settings in a run."""

    inner_product = False

    def __init__(self, schema: Schema, *, dim: int = 16) -> None:
        super().__init__()
        self.schema = schema
        self.users = nn.Embedding(schema.num_users, dim)
        self.items = nn.Embedding(schema.num_items, dim)

    def encode_users(self, users: Users) -> Tensor:
        """One point a user."""
        return self.users(users.ids)

    def encode_items(self, items: Items) -> Tensor:
        """One point an item."""
        return self.items(items.ids)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Every user with every item."""
        return -(torch.cdist(users, items) ** 2)

    def score_rows(self, users: Tensor, items: Tensor) -> Tensor:
        """Row i with row i, or with each of its n items."""
        others = users if items.ndim == users.ndim else users[:, None]
        return -((others - items) ** 2).sum(-1)


def main() -> None:
    """Train it; without an inner product the default run draws negatives."""
    data = twotower.Dataset.from_frames(listening_log(), user="listener", item="song", time="time")
    trained = twotower.train(Nearest, data, to="runs/nearest", epochs=30, batch_size=64, learning_rate=0.05, dim=8)
    print(trained.test)
    for answer in twotower.load("runs/nearest").recommend(user="listener-1", k=3):
        print(f"{answer.id}  {answer.score:.3f}")


if __name__ == "__main__":
    main()
