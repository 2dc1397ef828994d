"""``twotower recommend``: recommend items to a user, or to someone with a history typed in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Device, examples
from twotower.core.errors import InputError

EXAMPLES = examples(
    "twotower recommend runs/sasrec --user 196 -k 5",
    "twotower recommend runs/sasrec --history 50,181,174",
    "twotower recommend runs/sasrec --then runs/fit --candidates 500 --user 196",
)


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder that 'twotower train' wrote.")],
    user: Annotated[str | None, typer.Option(help="Id of a known user.")] = None,
    history: Annotated[str | None, typer.Option(help="Item ids, oldest first: A,B,C.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    exclude: Annotated[str | None, typer.Option(help="Further item ids to leave out: A,B,C.")] = None,
    include_seen: Annotated[
        bool | None,
        typer.Option(
            "--include-seen/--leave-out-seen",
            help="Whether to offer what the user has seen too; default: as the bundle was judged.",
            show_default=False,
        ),
    ] = None,
    then: Annotated[Path | None, typer.Option(help="Bundle of a pre-ranker that orders what is found.")] = None,
    candidates: Annotated[
        int | None, typer.Option(help="How many items the first hands to the second; default: as judged, else 2000.")
    ] = None,
    device: Device = "cpu",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Recommend items to a user, by id or by a history typed in."""
    from twotower.cli.answers import print_beside, print_json, row, split_ids
    from twotower.cli.notices import gathered
    from twotower.serving.bundle import Bundle
    from twotower.serving.pipeline import Pipeline
    from twotower.serving.retriever import Retriever

    if candidates is not None and then is None:
        raise InputError(
            "--candidates are what --then puts in order: name the pre-ranker's bundle by --then, or leave it out"
        )
    typed = None if history is None else split_ids(history)
    with gathered() as notices:
        retriever = Retriever(Bundle.load(bundle, device))
        asked: Retriever | Pipeline = retriever
        if then is not None:
            asked = Pipeline(retriever, Retriever(Bundle.load(then, device)), candidates=candidates)
        answers = asked.recommend(
            user=user, history=typed, k=k, exclude=split_ids(exclude or ""), include_seen=include_seen
        )
    query = {"user": user} if user is not None else {"history": typed}
    if json:
        print_json({"query": {**query, "k": k}, "items": [row(answer) for answer in answers], "notices": notices})
        return
    known = [id for id in typed or [] if retriever.bundle.item_vocabulary.known([id])]
    if user is not None:
        print_beside(f"For user {user}", answers, "Latest in the history", retriever.seen(user))
    else:
        print_beside("For this history", answers, "The history, latest first", retriever.items(known)[::-1])
