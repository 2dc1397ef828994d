"""Vectors from a FAISS index, rebuilt in a process of its own.

FAISS ends its process where a changed file or an index of another kind does not fit its code, so it runs apart.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from twotower.core.errors import InputError
from twotower.diagnosis.table import Account, Table

REFUSED = 2
"""Exit status of the process when it wrote one line that says why."""


def read_faiss(path: Path, column: str | None = None) -> Table:
    """Read the vectors that the index can rebuild, and the ids that it keeps.

    Raises:
        InputError: if the file is damaged, or the index does not give back each of its vectors.
    """
    # by its file and not its module: it needs none of the package, whose torch takes longer than the reading;
    # -P, since the file beside it would be taken for faiss
    program = Path(__file__).with_name("faiss_process.py")
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-P", str(program), str(path.absolute()), folder],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode == REFUSED:
            raise InputError(f"{path}: {done.stderr.strip().splitlines()[-1]}")
        if done.returncode != 0:
            raise InputError(f"{path}: not a readable FAISS index (FAISS broke off on it); write the index again")
        vectors = np.load(Path(folder) / "vectors.npy", allow_pickle=False)
        kept = Path(folder) / "ids.npy"
        ids = [str(number) for number in np.load(kept, allow_pickle=False).tolist()] if kept.is_file() else None
    kind, *notices = done.stdout.splitlines()
    return Table(vectors, ids, account=Account((kind,), "ids of the index" if ids else None, notices=tuple(notices)))
