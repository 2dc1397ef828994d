"""Inner product of two vectors."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


class Dot:
    """Score by the inner product ⟨user, item⟩."""

    inner_product = True

    def prepare(self, vectors: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Return the tower's output itself, as the state to store."""
        return vectors

    def __call__(
        self, users: Float[Tensor, "users dim"], items: Float[Tensor, "items dim"]
    ) -> Float[Tensor, "users items"]:
        """Score every user with every item."""
        return users @ items.T

    def pairs(self, users: Float[Tensor, "rows dim"], items: Float[Tensor, "rows *n dim"]) -> Float[Tensor, "rows *n"]:
        """Score row i of users with row i of items, or with each of its n items."""
        if items.ndim == users.ndim:
            return (users * items).sum(dim=-1)
        return (items @ users[:, :, None])[..., 0]
