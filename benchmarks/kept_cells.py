"""Finished cells of the papers' tables: kept in ``benchmarks/papers``, put back from there, and made into pages.

    python benchmarks/kept_cells.py keep fit-users runs/reproduce/fit-users
    python benchmarks/kept_cells.py back fit-users runs/reproduce/fit-users
    twotower reproduce fit-users --to runs/reproduce/fit-users        # goes on with what is missing
    python benchmarks/kept_cells.py page fit ml-1m kuairand-pure

A page has the rows that were tuned whole and have a first seed, and says which rows and seeds it lacks. Trainings of
another table count too where the run is the same and measured alike. Cells of before 29 November 2026 came without
values of users: rows of such cells have no test over users, and the page names them.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from twotower.experiment.run import Run
from twotower.reproduce.fit_extras import POPULARITY
from twotower.reproduce.kept import keep_cells, put_back
from twotower.reproduce.study import TUNING_SEED, Cell, Table, cells_of, choose, seeded, with_twins
from twotower.reproduce.summary import summarise
from twotower.reproduce.tables import LISTED, table_of

PAPERS = Path(__file__).resolve().parent / "papers"


def complete(table: Table, name: str, folder: Path) -> dict[str, tuple[Run, int]]:
    """Return the chosen run and the number of seeds, from 1 on, of every row that can be shown."""
    chosen = {}
    for variant, runs in table.variants(name).items():
        tuning = [Cell(table.name, name, Path(), variant, seeded(run, TUNING_SEED)) for run in runs]
        if len(runs) == 1 or all(cell.path(folder).is_file() for cell in tuning):
            chosen[variant] = choose(table, name, Path(), variant, runs, folder)
    found = {}
    for variant, run in with_twins(table, name, chosen).items():
        there = [cell.path(folder).is_file() for cell in cells_of(table, name, Path(), variant, run, table.seeds)]
        count = (*there, False).index(False)
        if count:
            found[variant] = run, count
    return found


def page(table: Table, name: str, folder: Path) -> list[Path]:
    """Write ``NAME-DATA.json`` and ``.md`` in ``benchmarks/papers`` from the cells in ``folder``."""
    written = [PAPERS / f"{table.name}-{name}.{ending}" for ending in ("json", "md")]
    rows = complete(table, name, folder)
    counts = {variant: count for variant, (_, count) in rows.items()}
    models = [count for variant, count in counts.items() if variant != POPULARITY]
    seeds = max(models)  # popularity alone is cheap: its further seeds say nothing about the others
    table = replace(table, fewer={variant: count for variant, count in counts.items() if count < seeds})
    chosen = {name: {variant: run for variant, (run, _) in rows.items()}}
    summarise(table, {name: Path()}, chosen, seeds, folder)
    for target in written:
        target.write_bytes((folder / f"{table.name}{target.suffix}").read_bytes())
    return written


def main() -> None:
    """Keep cells, put them back, or make a page of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("keep", "back", "page"))
    parser.add_argument("table", type=table_of)
    parser.add_argument("what", nargs="+", help="a results folder; of 'page': names of data sets")
    arguments = parser.parse_args()
    logging.getLogger("twotower.training.sources").setLevel(logging.ERROR)  # old files name options that nothing reads
    table, what = arguments.table, arguments.what
    if arguments.do != "page" and len(what) != 1:
        parser.error("name one results folder")
    if arguments.do == "keep":
        print(f"{keep_cells(table, Path(what[0]), PAPERS)} cells of {table.name} are kept")
    elif arguments.do == "back":
        back = put_back(table, PAPERS, Path(what[0]), others=LISTED)
        print(f"{back.written} cells put back in {what[0]}; {back.unknown} are of no row of {table.name} any more")
    else:
        with TemporaryDirectory() as work:
            put_back(table, PAPERS, Path(work), others=LISTED)
            for name in what:
                print(*page(table, name, Path(work)), sep="\n")


if __name__ == "__main__":
    main()
