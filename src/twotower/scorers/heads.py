"""Scorers of several vectors a row: the similarity of every pair of heads, and its reduction to one score."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from twotower.core.errors import InputError, unknown_name
from twotower.scorers.flat_fc import FlatFC
from twotower.scorers.lss import LSS
from twotower.scorers.one_head import OneHead
from twotower.scorers.sum_max import SumMax
from twotower.scorers.tiles import in_tiles

REDUCTIONS = ("lss", "sum_max", "flat_fc", "dot")


def all_similarities(
    users: Float[Tensor, "users user_heads dim"], items: Float[Tensor, "items item_heads dim"]
) -> Float[Tensor, "users items user_heads item_heads"]:
    """Return the inner products of every user's heads with every item's, by one matrix product.

    Source: FIT (Xiong et al., SIGIR 2025), section 4.2, equation 13.
    """
    product = users.flatten(0, 1) @ items.flatten(0, 1).T
    return product.view(*users.shape[:2], *items.shape[:2]).transpose(1, 2)


def row_similarities(
    users: Float[Tensor, "*#rows user_heads dim"], items: Float[Tensor, "*#rows item_heads dim"]
) -> Float[Tensor, "*#rows user_heads item_heads"]:
    """Return the inner products of row i's user heads with row i's item heads; leading axes broadcast."""
    return users @ items.mT


class HeadScorer(nn.Module):
    """Score by heads: user state [users, H_u, dim], item state [items, H_v, dim], from any towers.

    Args:
        reduction: similarities [..., H_u, H_v] to scores [...]: `LSS`, `SumMax`, `FlatFC` or `OneHead`.
    """

    inner_product = False

    def __init__(self, reduction: nn.Module) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(
        self, users: Float[Tensor, "users user_heads dim"], items: Float[Tensor, "items item_heads dim"]
    ) -> Float[Tensor, "users items"]:
        """Score every user with every item."""
        check_heads(users, items)
        return in_tiles(lambda some, others: self.reduction(all_similarities(some, others)), users, items)

    def pairs(
        self, users: Float[Tensor, "rows user_heads dim"], items: Float[Tensor, "rows *n item_heads dim"]
    ) -> Float[Tensor, "rows *n"]:
        """Score row i of users with row i of items, or with each of its n items."""
        check_heads(users, items)
        return self.reduction(row_similarities(users if items.ndim == users.ndim else users[:, None], items))


def check_heads(users: Tensor, items: Tensor) -> None:
    """Refuse states that are not heads, or whose heads differ in width.

    Raises:
        InputError: says which shapes came.
    """
    if not (isinstance(users, Tensor) and isinstance(items, Tensor)):
        kinds = f"{type(users).__name__} and {type(items).__name__}"
        raise InputError(f"head scorers take tensors [rows, heads, dim], got {kinds}: another model's states?")
    if users.ndim < 3 or items.ndim < 3 or users.shape[-1] != items.shape[-1]:
        raise InputError(
            "head scorers take [users, heads, dim] and [items, heads, dim] of one dim, "
            f"got {tuple(users.shape)} and {tuple(items.shape)}: another model's states?"
        )


def head_scorer(name: str, *, user_heads: int, item_heads: int, hidden: int = 16) -> HeadScorer:
    """Build a scorer of heads by its name.

    Args:
        name: "lss", "sum_max", "flat_fc" or "dot" (one head a side).
        user_heads: H_u.
        item_heads: H_v.
        hidden: width of the layers of "lss" and "flat_fc".

    Raises:
        InputError: if nothing has that name; names the closest.

    Examples:
        >>> import torch
        >>> scorer = head_scorer("sum_max", user_heads=2, item_heads=3)
        >>> scorer(torch.ones(4, 2, 5), torch.ones(6, 3, 5)).shape
        torch.Size([4, 6])
    """
    if name not in REDUCTIONS:
        raise unknown_name("scorer of heads", name, REDUCTIONS)
    if name == "sum_max":
        return HeadScorer(SumMax())
    if name == "dot":
        return HeadScorer(OneHead(user_heads=user_heads, item_heads=item_heads))
    learned = LSS if name == "lss" else FlatFC
    return HeadScorer(learned(user_heads=user_heads, item_heads=item_heads, hidden=hidden))
