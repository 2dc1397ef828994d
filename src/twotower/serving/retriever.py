"""Retriever: requests and answers in outside ids, from a bundle's model, index and vocabulary."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twotower.core.errors import InputError, shown, unknown_name
from twotower.core.html import html_table
from twotower.core.records import FIRST_KNOWN, PADDING, UNKNOWN, State, TopK, Users
from twotower.data.log import NO_ITEM
from twotower.index.base import AnyIndex
from twotower.index.brute_force import BruteForceIndex
from twotower.index.exact import ExactIndex
from twotower.models.base import Model, SumsOverHistory, prepare_serving
from twotower.ops.topk import top_k
from twotower.serving.bundle import Bundle
from twotower.serving.neighbours import Neighbours, directions
from twotower.serving.newcomers import newcomer_features
from twotower.serving.table import raw_columns, read_table
from twotower.serving.vocabulary import Record
from twotower.serving.why import Cause, Why, shares_of, similar_by_sum

log = logging.getLogger(__name__)

TILE = 1024
"""Users encoded and searched at a time."""

AMONG = ("catalogue", "file")


class Answer(NamedTuple):
    """Hold one item of an answer: its outside id, its score before temperature and its raw columns."""

    id: str
    score: float
    columns: dict[str, Any]


class Answers(list[Answer]):
    """Hold the answers of one request, best first: a list that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        """Show rank, id, score and raw columns as a table in a notebook."""
        names = list(dict.fromkeys(name for answer in self for name in answer.columns))
        rows = (
            (place, answer.id, f"{answer.score:.4f}", *(answer.columns.get(name, "") for name in names))
            for place, answer in enumerate(self, 1)
        )
        return html_table(("", "id", "score", *names), rows)


class Asker(NamedTuple):
    """Hold the user of a request as the user tower reads it, and the rows seen, padded with -1: int64 [1, most]."""

    users: Users
    seen: Tensor


class Similar(NamedTuple):
    """Hold the neighbours of one row of a file of items: its outside id, and the answers."""

    id: str
    answers: list[Answer]


class Retriever:
    """Answer requests from a bundle. Loaded once, it serves several threads.

    An inner-product model is searched through the bundle's index, exactly if it holds none; any other model scores the
    whole catalogue.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        name, items = self.bundle.manifest["model"]["name"], len(self.bundle.item_ids)
        return f"Retriever({name} on {self.bundle.manifest['data']}, {items:,} items)"

    def preload(self) -> None:
        """Load at once what the first requests would wait for: a server calls it before it listens."""
        self.bundle.user_vocabulary.preload()
        self.bundle.item_vocabulary.preload()
        self.recommend(
            history=self.bundle.item_vocabulary.ids(self.bundle.item_ids[:1].tolist()), k=1, include_seen=True
        )

    def recommend(
        self,
        user: object = None,
        *,
        history: Iterable[object] | None = None,
        features: Mapping[str, Any] | None = None,
        k: int = 10,
        exclude: Iterable[object] = (),
        include_seen: bool | None = None,
    ) -> list[Answer]:
        """Find the best ``k`` items, best first, for a known user or for a history of item ids (oldest first).

        With both, the history is what the user did since the bundle was written: it follows the stored one. A user who
        is not known is then left aside with a warning.

        Ids are texts or numbers, alone or in any list: NumPy arrays and columns of data frames too. Items of the
        history or of ``exclude`` that the catalogue no longer has are left aside with a warning.

        What the user has seen (`Log.seen`: events of whatever label) is left out unless ``include_seen``; None: as the
        model was judged (``evaluation.mask_seen`` of its run). ``exclude``
        names further items to leave out. Fewer than ``k`` come back when the catalogue has no more. A history that is
        typed in takes place, for a model that reads the clock, at the time of the latest stored event; ``features`` are
        the raw columns of who has it, by name (None: missing).

        Raises:
            InputError: if neither ``user`` nor ``history`` is given, ``k`` is below 1, the user is unknown and there is
                no history, or the history of one who is not known is empty or holds nothing known.
        """
        return self.answers(self.found(self.asker(user, history, features), k, exclude, include_seen=include_seen))

    def recommend_many(
        self, users: Iterable[object], *, k: int = 10, include_seen: bool | None = None
    ) -> list[list[Answer]]:
        """Recommend for many known users at once: one list a user, in order.

        Raises:
            InputError: if a user is unknown or ``k`` is below 1.
        """
        rows = self._user_rows(users)
        answers: list[list[Answer]] = []
        for tile in rows.split(TILE) if len(rows) else ():
            answers += self._search(
                self.bundle.users(tile), k, None if self.keeps_seen(include_seen) else self._seen(tile)
            )
        return answers

    def rank(
        self,
        user: object = None,
        candidates: Iterable[object] = (),
        *,
        history: Iterable[object] | None = None,
        features: Mapping[str, Any] | None = None,
        k: int | None = None,
    ) -> list[Answer]:
        """Rank candidates (None: all) for a known user or a history by the whole model; return the best ``k``.

        Equal scores keep the order of the catalogue.

        Raises:
            InputError: as `recommend`; if nothing is known of the user, a candidate is unknown or named twice, there is
                none, or ``k`` is below 1.
        """
        names = self.bundle.item_vocabulary.texts(candidates)
        items = self._item_rows(names)
        if not len(items):
            raise InputError("the list of candidates is empty; name at least one item")
        if len(items.unique()) < len(items):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"candidate {shown(twice)} is named more than once; name each candidate once")
        asker = self.asker(user, history, features)
        return self.answers(self.ordered(asker, items, len(items) if k is None else k))

    def similar(self, item: str, *, k: int = 10) -> list[Answer]:
        """Find the ``k`` items whose states have the largest cosine with a known item's, itself left out.

        A model that sums over the history (`twotower.models.base.SumsOverHistory`, such as ``item_cosine`` and
        ``ease``) has no such states: the score is then what the item adds to the other one's when it is in a history.
        Items to which it adds nothing are left out, so that fewer than ``k`` may come back.

        Raises:
            InputError: if the item is unknown, ``k`` is below 1, or the model's states are single numbers.
        """
        row, most = self._item_rows([item]), self._checked(k, len(self.bundle.item_ids) - 1)
        if isinstance(self._model, SumsOverHistory):
            return self._answers(similar_by_sum(self._model, int(row), self.bundle.item_ids, most))[0]
        return self._answers(self._neighbours.of_ids(row, most))[0]

    def explain(
        self,
        user: object = None,
        items: Iterable[object] = (),
        *,
        history: Iterable[object] | None = None,
        features: Mapping[str, Any] | None = None,
    ) -> list[Why]:
        """Return why each of ``items`` has its score for a user or a history: the share of each item of the history.

        The shares of a model that sums over the history (``item_cosine``, ``ease``, ``item_lists``) are exact and add
        up to the score. Any other model is asked again without each item of the history that it reads: a share is how
        much the score falls then.

        Args:
            user: a known user, as for `recommend`.
            items: ids of known items, such as those that `recommend` found.
            history: item ids, oldest first, as for `recommend`.
            features: as for `recommend`.

        Raises:
            InputError: as `recommend`; if an item is unknown, or none is named.
        """
        names = self.bundle.item_vocabulary.texts(items)
        rows = self._item_rows(names)
        if not len(rows):
            raise InputError("the list of items is empty; name those to explain")
        order = self.bundle.item_ids.argsort()
        places = order[torch.searchsorted(self.bundle.item_ids[order], rows)]
        found = shares_of(self._model, self.asker(user, history, features).users, self.bundle.item_states, places)
        read = [(at, row) for at, row in enumerate(found.history.tolist()) if row >= FIRST_KNOWN]
        records = self.bundle.item_vocabulary.records([row for _, row in read])
        told = []
        for place, (name, score) in enumerate(zip(names, found.scores.tolist(), strict=True)):
            shares = found.shares[:, place].tolist()
            causes = [
                Cause(record.id, shares[at], record.columns)
                for (at, _), record in zip(read, records, strict=True)
                if shares[at] != 0.0
            ]
            told.append(Why(name, score, found.exact, sorted(causes, key=lambda cause: -cause.share)))
        return told

    def similar_table(self, path: Path | str, *, k: int = 20, among: str = "catalogue") -> list[Similar]:
        """Find the ``k`` items nearest to each row of a file of items, in the file's order.

        The file is CSV, TSV, JSON lines or Parquet.

        The file has the columns of the raw item table that the model was trained on. A row whose id is in the catalogue
        has its stored state; any other is encoded as an unknown item with its columns. ``among`` says where neighbours
        come from: the "catalogue", or the "file" itself, whose columns then come with the answers. No item is its own
        neighbour.

        Raises:
            InputError: if the file cannot be read as items, its new rows tell the model nothing, ``among`` is neither,
                or ``k`` is below 1.
        """
        if among not in AMONG:
            raise unknown_name("place for neighbours", among, AMONG)
        table = read_table(Path(path), self.bundle, self._neighbours)
        if among == "catalogue":
            most, leave_out = len(self.bundle.item_ids), table.rows.where(table.rows != UNKNOWN, NO_ITEM)
            answers = self._answers(self._neighbours.of_vectors(table.vectors, self._checked(k, most), leave_out))
        else:
            places = torch.arange(len(table.ids), device=self.bundle.device)
            found = Neighbours(table.vectors, places).of_ids(places, self._checked(k, len(places) - 1))
            known = self.bundle.item_vocabulary.records(table.rows[table.rows != UNKNOWN].tolist())
            stored = {item.id: item.columns for item in known}
            given = raw_columns(Path(path), self.bundle)
            items = [(id, {**stored.get(id, {}), **own}) for id, own in zip(table.ids, given, strict=True)]
            answers = [
                [Answer(items[at][0], score, items[at][1]) for at, score in zip(*pair, strict=True)]
                for pair in zip(found.ids.tolist(), found.scores.tolist(), strict=True)
            ]
        return [Similar(id, part) for id, part in zip(table.ids, answers, strict=True)]

    def seen(self, user: object) -> list[Record]:
        """Return what a known user has seen: items of all stored events, of whatever label, latest first, each once.

        Raises:
            InputError: if the user is unknown.
        """
        history = self._seen(self._user_rows([user]))[0]
        return self.bundle.item_vocabulary.records(
            [row for row in dict.fromkeys(history.flip(0).tolist()) if row != NO_ITEM]
        )

    def items(self, ids: Iterable[object]) -> list[Record]:
        """Return what is known of these items, in order.

        Raises:
            InputError: if an id is unknown.
        """
        return self.bundle.item_vocabulary.records(self.bundle.item_vocabulary.rows(ids))

    def item_vectors(self) -> tuple[list[str], NDArray[np.float32]]:
        """Return the ids of all items and their vectors, float32 [items, dim], in the order of the catalogue.

        Raises:
            InputError: if the model's item states are no vectors.
        """
        return self.bundle.item_vocabulary.ids(self.bundle.item_ids.tolist()), self._vectors(self.bundle.item_states)

    @torch.inference_mode()
    def user_vectors(self, users: Iterable[object]) -> tuple[list[str], NDArray[np.float32]]:
        """Return the ids of known users and their vectors, float32 [users, dim], in the order given.

        Raises:
            InputError: if a user is unknown, none is named, or the model's user states are no vectors.
        """
        ids = self.bundle.user_vocabulary.texts(users)
        if not ids:
            raise InputError("the list of users is empty; name at least one")
        rows = self._user_rows(ids)
        tiles = [self._vectors(self._model.encode_users(self.bundle.users(tile))) for tile in rows.split(TILE)]
        return ids, np.concatenate(tiles)

    def _vectors(self, states: State) -> NDArray[np.float32]:
        if not isinstance(states, Tensor) or states.ndim != 2:
            name = self.bundle.manifest["model"]["name"]
            raise InputError(f"model '{name}' has no vectors: its states are not one list of numbers a row")
        return states.float().cpu().numpy()

    def asker(self, user: object, history: Iterable[object] | None, features: Mapping[str, Any] | None = None) -> Asker:
        """Encode the user of a request: a known one, a history of item ids (oldest first) with raw columns, or both.

        With both, the history is what came since the bundle was written: it follows the stored one, at the time of the
        latest stored event. A user who is not known is then left aside with a warning, and the history answers alone;
        ``features`` are those of such a one.

        Raises:
            InputError: if neither is given, the user is unknown and there is no history, or the history of one who is
                not known is empty or all unknown; if features come with a user alone, or name a column that is none.
        """
        if user is None and history is None:
            raise InputError("give either a user or a history, or both: a user with what came since")
        given = None if history is None else self.bundle.item_vocabulary.texts(history)
        if user is not None and (not given or self._knows(user)):
            if features is not None and not given:
                raise InputError("a known user has stored features; give features with a history alone")
            if features is not None:
                log.warning("user %s is known: stored features are read, those given are left aside", shown(user))
            row = self._user_rows([user])
            if not given:
                return Asker(self.bundle.users(row), self._seen(row))
            since = self._known_rows(given, required=False)
            return Asker(self.bundle.returning(int(row), since), torch.cat([self._seen(row), since[None]], dim=1))
        if user is not None:
            log.warning("user %s is unknown here: the history alone is read", shown(user))
        items = self._known_rows(given or ())
        if not len(items):
            raise InputError("the history is empty; name at least one item")
        users = self.bundle.newcomer(items)
        if features is not None:
            encoded = newcomer_features(self.bundle, features)
            users = users._replace(features={name: part.to(items.device) for name, part in encoded.items()})
        return Asker(users, items[None])

    def excluded(self, ids: Iterable[object]) -> Tensor:
        """Return rows to leave out, int64; ids that the catalogue does not have change nothing and are a warning."""
        texts = self.bundle.item_vocabulary.texts(ids)
        found = self.bundle.item_vocabulary.known(texts)
        if missing := [text for text in texts if text not in found]:
            log.warning("%d items to leave out are not in the catalogue, such as %s", len(missing), shown(missing[0]))
        return torch.tensor(list(found.values()), dtype=torch.int64, device=self.bundle.device)

    def answered_by(self, user: object, history: Iterable[object] | None) -> str:
        """Return what a request is answered from: "user", "history" or "user+history"."""
        given = history is not None and bool(self.bundle.item_vocabulary.texts(history))
        if user is None or (given and not self._knows(user)):
            return "history"
        return "user+history" if given else "user"

    @torch.inference_mode()
    def found_many(self, users: Tensor, k: int, excluded: Tensor, *, include_seen: bool | None = None) -> TopK:
        """Return the rows of the best ``k`` items of many known users, a tile of `TILE` rows at most.

        Args:
            users: rows of known users, int64 [users].
            k: as `checked` returned it.
            excluded: rows that nobody gets, as `excluded` returned them.
            include_seen: whether users get what they have seen, too; None: as the bundle was judged.
        """
        banned = excluded.expand(len(users), -1)
        if not self.keeps_seen(include_seen):
            banned = torch.cat([banned, self._seen(users)], dim=1)
        return self._index.search(self._model.encode_users(self.bundle.users(users)), k, banned)

    def checked(self, k: int) -> int:
        """Return how many items may come back for ``k``: all of them, with a warning, where there are fewer.

        Raises:
            InputError: if ``k`` is no whole number or below 1.
        """
        return self._checked(k, len(self.bundle.item_ids))

    def keeps_seen(self, include_seen: bool | None) -> bool:
        """Return whether users get what they have seen, too; None: as the bundle was evaluated."""
        return not self.bundle.mask_seen if include_seen is None else include_seen

    def found(self, asker: Asker, k: int, exclude: Iterable[object] = (), *, include_seen: bool | None = None) -> TopK:
        """Return the rows of the best ``k`` items for one request.

        Raises:
            InputError: if ``k`` is below 1.
        """
        banned = self.excluded(exclude)[None]
        return self._found(
            asker.users, k, banned if self.keeps_seen(include_seen) else torch.cat([banned, asker.seen], dim=1)
        )

    @torch.inference_mode()
    def state_of(self, row: int) -> tuple[State, Tensor]:
        """Return a known user's state, and the rows seen, padded with -1: int64 [1, most]."""
        rows = torch.tensor([row], dtype=torch.int64, device=self.bundle.device)
        return self._model.encode_users(self.bundle.users(rows)), self._seen(rows)

    @torch.inference_mode()
    def nearest(self, states: State, k: int, banned: Tensor) -> TopK:
        """Return the rows of the best ``k`` items by these user states.

        Args:
            states: of users.
            k: as `checked` returned it.
            banned: rows that each user does not get, int64 [users, most], -1 where there are no more.
        """
        return self._index.search(states, k, banned)

    @torch.inference_mode()
    def ordered(self, asker: Asker, items: Tensor, k: int) -> TopK:
        """Return the best ``k`` of these item rows (int64 [candidates], no two alike) for one request.

        Raises:
            InputError: if nothing is known of the user, or ``k`` is below 1.
        """
        if not self.bundle.schema.user_features and not (asker.users.history != PADDING).any():
            raise InputError("nothing is known of this user: no history, and the data has no user features; give one")
        k = self._checked(k, len(items))
        items = items.sort().values
        rows, model = torch.searchsorted(self.bundle.item_ids, items), self._model
        best = top_k(model.score_among(model.encode_users(asker.users), self.bundle.item_states, rows).float(), k)
        return TopK(best.scores, items[best.ids])

    def answers(self, found: TopK) -> list[Answer]:
        """Convert the rows found for one request to answers in outside ids."""
        return self._answers(found)[0]

    @property
    def index(self) -> AnyIndex:
        """Return what is searched: the bundle's index, or exact search where it has none."""
        return self._index

    @property
    def _model(self) -> Model:
        with self._lock:  # of several threads one prepares, and the others wait for it
            return self._prepared_model

    @property
    def _index(self) -> AnyIndex:
        with self._lock:
            return self._built_index

    @property
    def _neighbours(self) -> Neighbours:
        with self._lock:
            return self._built_neighbours

    @cached_property
    def _prepared_model(self) -> Model:
        """The bundle's model, with what no request changes computed."""
        prepare_serving(self.bundle.model)
        return self.bundle.model

    @cached_property
    def _built_index(self) -> AnyIndex:
        bundle = self.bundle
        if bundle.index is not None:
            return bundle.index
        index: AnyIndex = ExactIndex() if bundle.model.inner_product else BruteForceIndex(bundle.model)
        index.build(bundle.item_states, bundle.item_ids)
        return index

    @cached_property
    def _built_neighbours(self) -> Neighbours:
        states = self.bundle.model.item_store.whole(self.bundle.item_states)
        return Neighbours(directions(states), self.bundle.item_ids)

    def _search(self, users: Users, k: int, banned: Tensor | None) -> list[list[Answer]]:
        return self._answers(self._found(users, k, banned))

    @torch.inference_mode()
    def _found(self, users: Users, k: int, banned: Tensor | None) -> TopK:
        k = self._checked(k, len(self.bundle.item_ids))
        return self._index.search(self._model.encode_users(users), k, banned)

    def _checked(self, k: int, most: int) -> int:
        if k != int(k):
            raise InputError(f"k is a whole number, got {k}")
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        if most < 1:
            raise InputError("there is no other item to choose from")
        if k > most:
            log.warning("k = %d, but there are %d items to choose from: all of them come back", k, most)
        return min(int(k), most)

    def _knows(self, user: object) -> bool:
        return bool(self.bundle.user_vocabulary.known(self.bundle.user_vocabulary.texts([user])))

    def _known_rows(self, ids: Iterable[object], *, required: bool = True) -> Tensor:
        rows = self.bundle.item_vocabulary.rows_of_known(ids, required=required)
        return torch.tensor(rows, dtype=torch.int64, device=self.bundle.device)

    def _user_rows(self, ids: Iterable[object]) -> Tensor:
        return torch.tensor(self.bundle.user_vocabulary.rows(ids), dtype=torch.int64, device=self.bundle.device)

    def _item_rows(self, ids: Iterable[object]) -> Tensor:
        return torch.tensor(self.bundle.item_vocabulary.rows(ids), dtype=torch.int64, device=self.bundle.device)

    def _seen(self, users: Tensor) -> Tensor:
        """The items of each user's stored events, of whatever label (`Log.seen`): int64 [users, most]."""
        return self.bundle.dataset.log.seen(users)

    def _answers(self, found: TopK) -> list[list[Answer]]:
        """What was found in outside ids, without the places that stayed empty."""
        ids = found.ids.tolist()
        wanted = sorted({row for rows in ids for row in rows if row != NO_ITEM})
        items = dict(zip(wanted, self.bundle.item_vocabulary.records(wanted), strict=True))
        answers: list[list[Answer]] = []
        for rows, scores in zip(ids, found.scores.tolist(), strict=True):
            pairs = ((items[row], score) for row, score in zip(rows, scores, strict=True) if row in items)
            answers.append(Answers(Answer(item.id, score, item.columns) for item, score in pairs))
        return answers


def load(folder: Path | str, device: torch.device | str = "cpu", *, verify: bool = True) -> Retriever:
    """Load the retriever of a bundle; also known as ``twotower.load``.

    Raises:
        InputError: if the folder is not a bundle, is of a newer format, or, with ``verify``, has a changed file.
    """
    return Retriever(Bundle.load(folder, device, verify=verify))
