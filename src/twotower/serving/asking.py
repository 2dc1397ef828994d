"""Users of requests as the user tower reads them, and outside ids as rows of the bundle."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.core.errors import InputError, shown
from twotower.core.records import Users
from twotower.core.states import to_tensors
from twotower.serving.bundle import Bundle
from twotower.serving.newcomers import newcomer_features

log = logging.getLogger(__name__)


class Asker(NamedTuple):
    """Hold the user of a request as the user tower reads it, and the rows seen, padded with -1: int64 [1, most]."""

    users: Users
    seen: Tensor


def asker_of(
    bundle: Bundle, user: object, history: Iterable[object] | None, features: Mapping[str, Any] | None = None
) -> Asker:
    """Encode the user of a request: a known one, a history of item ids (oldest first) with raw columns, or both.

    Of somebody new, raw columns alone are enough where the data has features of users.

    With both, the history is what came since the bundle was written: it follows the stored one, at the time of the
    latest stored event. A user who is not known is then left aside with a warning, and the history answers alone;
    ``features`` are those of such a one.

    Raises:
        InputError: if none of the three is given, the user is unknown and there is neither history nor features, or
            the history of one who is not known is empty or all unknown and no features say more; if features come with
            a known user alone, or name a column that is none.
    """
    if user is None and history is None and features is None:
        raise InputError(
            "give either a user or a history, or both: a user with what came since; or the features of somebody new"
        )
    if isinstance(history, (set, frozenset)):
        raise InputError("a history is in the order of time, which a set has not; give a list, the oldest first")
    given = None if history is None else bundle.item_vocabulary.texts(history)
    if user is not None and (not (given or features) or knows(bundle, user)):
        if features is not None and not given:
            raise InputError("a known user has stored features; give features with a history alone")
        if features is not None:
            log.warning("user %s is known: stored features are read, those given are left aside", shown(user))
        row = user_rows(bundle, [user])
        if not given:
            return Asker(bundle.users(row), seen(bundle, row))
        since = known_rows(bundle, given, required=False)
        return Asker(bundle.returning(int(row), since), torch.cat([seen(bundle, row), since[None]], dim=1))
    if user is not None:
        read = "the history alone is read" if given else "the features alone are read"
        log.warning("user %s is unknown here: %s", shown(user), read)
    described = bool(features) and bool(bundle.schema.user_features)
    items = known_rows(bundle, given or (), required=not described)
    if not len(items) and not described:
        if features and not given:
            raise InputError("the data has no user features, so that they answer nothing; give a history")
        raise InputError(
            "the history is empty; name at least one item"
            + (", or give features" if bundle.schema.user_features else "")
        )
    users = bare = bundle.newcomer(items)
    if features is not None:
        encoded = newcomer_features(bundle, features)
        users = users._replace(features={name: part.to(items.device) for name, part in encoded.items()})
    if not len(items):
        _tell_if_unread(bundle, users, bare)
    return Asker(users, items[None])


@torch.inference_mode()
def _tell_if_unread(bundle: Bundle, users: Users, bare: Users) -> None:
    """Warn where the features of somebody without a history change nothing."""
    with_features, without = (to_tensors(bundle.model.encode_users(one)) for one in (users, bare))
    if all(torch.equal(part, without[name]) for name, part in with_features.items()):
        log.warning(
            "%s makes the same of these features as of none: the answer is that of anybody of whom nothing is known",
            bundle.manifest["model"]["name"],
        )


def answered_by(
    bundle: Bundle, user: object, history: Iterable[object] | None, features: Mapping[str, Any] | None = None
) -> str:
    """Return what a request is answered from: "user", "history", "user+history" or "features"."""
    given = history is not None and bool(bundle.item_vocabulary.texts(history))
    if user is None or ((given or features) and not knows(bundle, user)):
        return "history" if given or not features else "features"
    return "user+history" if given else "user"


def excluded_rows(bundle: Bundle, ids: Iterable[object]) -> Tensor:
    """Return rows to leave out, int64; ids that the catalogue does not have change nothing and are a warning."""
    texts = bundle.item_vocabulary.texts(ids)
    found = bundle.item_vocabulary.known(texts)
    if missing := [text for text in texts if text not in found]:
        log.warning("%d items to leave out are not in the catalogue, such as %s", len(missing), shown(missing[0]))
    return torch.tensor(list(found.values()), dtype=torch.int64, device=bundle.device)


def knows(bundle: Bundle, user: object) -> bool:
    """Return whether the bundle knows this user."""
    return bool(bundle.user_vocabulary.known(bundle.user_vocabulary.texts([user])))


def known_rows(bundle: Bundle, ids: Iterable[object], *, required: bool = True) -> Tensor:
    """Return the rows of those items that are known: see `twotower.serving.vocabulary.Vocabulary.rows_of_known`."""
    rows = bundle.item_vocabulary.rows_of_known(ids, required=required)
    return torch.tensor(rows, dtype=torch.int64, device=bundle.device)


def user_rows(bundle: Bundle, ids: Iterable[object]) -> Tensor:
    """Return the rows of known users; an unknown one is an error."""
    return torch.tensor(bundle.user_vocabulary.rows(ids), dtype=torch.int64, device=bundle.device)


def item_rows(bundle: Bundle, ids: Iterable[object]) -> Tensor:
    """Return the rows of known items; an unknown one is an error."""
    return torch.tensor(bundle.item_vocabulary.rows(ids), dtype=torch.int64, device=bundle.device)


def seen(bundle: Bundle, users: Tensor) -> Tensor:
    """Return the items of each user's stored events, of whatever label (`Log.seen`): int64 [users, most]."""
    return bundle.dataset.log.seen(users)
