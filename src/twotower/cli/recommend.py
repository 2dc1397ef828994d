"""``twotower recommend``: recommend items to a user, or to someone with a history or features typed in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Device, Engine, Filter, Only, Workers, examples
from twotower.core.errors import InputError, shown

log = logging.getLogger(__name__)

EXAMPLES = examples(
    "twotower recommend runs/sasrec --user 196 -k 5",
    "twotower recommend runs/sasrec --history 50,181,174",
    "twotower recommend runs/sasrec --user 196 --history 50,181",
    "twotower recommend runs/sasrec --user 196 --filter \"genres contains 'Comedy' and year >= 1990\"",
    "twotower recommend runs/sasrec --user 196 --why",
    "twotower recommend runs/cold --feature age=30 --feature city=Turin",
    "twotower recommend runs/sasrec --then runs/fit --candidates 500 --user 196",
    "twotower recommend runs/sasrec --all --to lists.parquet -k 20",
    "twotower recommend runs/sasrec --all --then runs/fit --candidates 500 --to lists.parquet",
    "twotower recommend runs/sasrec --users active.csv --to lists.parquet",
    "twotower recommend s3://bucket/sasrec --all --to s3://bucket/lists --engine dask://10.0.0.5:8786",
)


def command(
    bundle: Annotated[str, typer.Argument(help="Folder that 'twotower train' wrote; with --all also its address.")],
    user: Annotated[str | None, typer.Option(help="Id of a known user.")] = None,
    history: Annotated[
        str | None, typer.Option(help='Item ids, oldest first: A,B,C; with --user: what came since. "A,1" is one id.')
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--feature",
            metavar="COLUMN=VALUE",
            help="A raw column of somebody new, beside a history or alone; may be repeated.",
        ),
    ] = None,
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
    filter: Filter = None,
    only: Only = None,
    why: Annotated[bool, typer.Option("--why", help="Say which items of the history carry each score.")] = False,
    then: Annotated[str | None, typer.Option(help="Bundle of a pre-ranker that orders what is found.")] = None,
    candidates: Annotated[
        int | None, typer.Option(help="How many items the first hands to the second; default: as judged, else 2000.")
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Write the answers of every known user to --to.")] = False,
    users: Annotated[
        str | None, typer.Option(help="Write the answers of these to --to: a table with the id's column, or .txt.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="The Parquet file of --all or --users, or a folder or address for its parts; a stopped run goes on."
        ),
    ] = None,
    engine: Engine = "local",
    workers: Workers = 1,
    device: Device = "cpu",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Recommend items to a user, by id, by history, by both or by features; or to every user, into a file."""
    from twotower.cli.answers import because, print_beside, print_json, print_why, row, split_ids
    from twotower.cli.notices import gathered
    from twotower.cli.options import listed_items
    from twotower.serving.asking import answered_by
    from twotower.serving.bundle import Bundle
    from twotower.serving.pipeline import Pipeline
    from twotower.serving.retriever import Retriever

    if candidates is not None and then is None:
        raise InputError(
            "--candidates are what --then puts in order: name the pre-ranker's bundle by --then, or leave it out"
        )
    if everyone or users is not None or to is not None:
        _check_many(everyone, users, to, user, history, features, why)
        assert to is not None, "it was checked to be given"
        from twotower.cli.recommend_all import write

        left_out = split_ids(exclude or "")
        write(
            bundle,
            to,
            users=users,
            k=k,
            exclude=left_out,
            include_seen=include_seen,
            then=then,
            candidates=candidates,
            filter=filter,
            only=only,
            device=device,
            engine=engine,
            workers=workers,
            json=json,
        )
        return
    if engine != "local" or workers != 1:
        raise InputError("--engine and --workers go with --all or --users")
    typed, told = None if history is None else split_ids(history), _columns(features)
    with gathered() as notices:
        retriever = Retriever(Bundle.load(Path(bundle), device))
        asked: Retriever | Pipeline = retriever
        if then is not None:
            asked = Pipeline(retriever, Retriever(Bundle.load(Path(then), device)), candidates=candidates)
        answers = asked.recommend(
            user=user,
            history=typed,
            features=told,
            k=k,
            exclude=split_ids(exclude or ""),
            include_seen=include_seen,
            filter=filter,
            only=listed_items(retriever.bundle, only),
        )
        by = answered_by(retriever.bundle, user, typed, told)
        scorer = retriever
        if isinstance(asked, Pipeline) and asked.weight > 0.0:
            scorer = asked.ranker
            if why and asked.weight < 1.0:
                log.warning("the scores are a mixture of both stages; --why explains the part of the pre-ranker")
        reasons = []
        if why and answers:
            reasons = scorer.explain(user, [answer.id for answer in answers], history=typed, features=told)
    given = (("user", user), ("history", typed), ("features", told), ("filter", filter))
    query = {name: value for name, value in given if value is not None}
    if json:
        rows = [row(answer) for answer in answers]
        for item, reason in zip(rows, reasons, strict=False):
            item["why"] = because(reason)
        print_json({"query": {**query, "k": k}, "items": rows, "notices": notices})
        return
    known = [id for id in typed or [] if retriever.bundle.item_vocabulary.known([id])]
    since = retriever.items(known)[::-1]
    if by in ("history", "features"):
        title = "For this history" if by == "history" else "For somebody with these features"
        print_beside(title, answers, "The history, latest first", since)
    else:
        print_beside(f"For user {user}", answers, "Latest in the history", since + retriever.seen(user))
    if reasons:
        print_why(reasons)


def _columns(texts: list[str] | None) -> dict[str, str] | None:
    """The raw columns of ``--feature``, by name.

    Raises:
        InputError: if one is not COLUMN=VALUE, or a column comes twice.
    """
    if not texts:
        return None
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals):
            raise InputError(f"--feature {shown(text)}: write column=value, such as age=30")
        if name.strip() in found:
            raise InputError(f"--feature {shown(text)}: column {shown(name.strip())} is given twice")
        found[name.strip()] = value
    return found


def _check_many(
    everyone: bool,
    users: str | None,
    to: str | None,
    user: str | None,
    history: str | None,
    features: list[str] | None,
    why: bool,
) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: says which.
    """
    if everyone and users is not None:
        raise InputError("give --all or --users, not both")
    if not everyone and users is None:
        raise InputError("--to FILE.parquet goes with --all or --users FILE")
    if to is None:
        raise InputError("--all and --users write a file: name it by --to FILE.parquet")
    if user is not None or history is not None or features:
        raise InputError("--user, --history and --feature ask for one; leave them out with --all and --users")
    if why:
        raise InputError("--why explains the answers of one; leave it out with --all and --users")
