"""The inner product of two vectors."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


class Dot:
    """Score = <user, item>."""

    inner_product = True

    def prepare(self, vectors: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        """What a tower's output becomes before it is stored as a state: itself."""
        return vectors

    def __call__(
        self, users: Float[Tensor, "users dim"], items: Float[Tensor, "items dim"]
    ) -> Float[Tensor, "users items"]:
        """Every user with every item."""
        return users @ items.T

    def pairs(self, users: Float[Tensor, "rows dim"], items: Float[Tensor, "rows *n dim"]) -> Float[Tensor, "rows *n"]:
        """Row i of users with row i of items, or with each of its n items."""
        if items.ndim == users.ndim:
            return (users * items).sum(dim=-1)
        return (items @ users[:, :, None])[..., 0]
