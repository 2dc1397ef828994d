"""Process that `twotower.diagnosis.readers.faiss` starts: an index to arrays, or one line on standard error."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

_MEMORY = 4_000_000_000
"""Bytes that the process may take beside twenty times the file: a damaged size must not fill the machine."""


class Rebuilt(NamedTuple):
    """Hold vectors, the ids that the index kept itself (None when they are 0, 1, 2, …), and remarks."""

    vectors: NDArray[Any]
    ids: NDArray[Any] | None
    remarks: tuple[str, ...] = ()


class NotRebuilt(Exception):  # noqa: N818 - its text is the line to show
    """Report that the index does not hold, or does not give back, each of its vectors."""


def rebuild(index: Any) -> Rebuilt:
    """Return every vector under its own id; none is read from memory that was never filled."""
    index = faiss.downcast_index(index)
    kind = type(index).__name__
    if isinstance(index, faiss.IndexIDMap):  # IndexIDMap2 too
        inner = rebuild(index.index)
        ids = faiss.vector_to_array(index.id_map).copy()
        if len(ids) != len(inner.vectors):
            raise NotRebuilt(f"the index holds {len(inner.vectors)} vectors but {len(ids)} ids; write it again")
        return Rebuilt(_in_order(inner), ids, inner.remarks)
    if isinstance(index, faiss.IndexPreTransform):
        return _untransformed(index, rebuild(index.index))
    if index.ntotal < 1:
        raise NotRebuilt("the index is empty")
    if isinstance(index, faiss.IndexIVF):
        return _from_lists(index, kind)
    # one vector first: reconstruct_n ends the process where the index has no way back
    try:
        index.reconstruct(0)
    except RuntimeError:
        raise NotRebuilt(f"a {kind} does not give its vectors back; use the file of vectors") from None
    vectors = np.full((index.ntotal, index.d), np.nan, dtype=np.float32)
    index.reconstruct_n(0, index.ntotal, vectors)
    return Rebuilt(vectors, None)


def _from_lists(index: Any, kind: str) -> Rebuilt:
    lists = index.invlists
    parts = [
        faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number)).copy()
        for number in range(index.nlist)
        if lists.list_size(number)
    ]
    ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    if len(ids) != index.ntotal or len(np.unique(ids)) != len(ids) or ids.min() < 0:
        raise NotRebuilt(f"the lists of the {kind} do not hold each vector once; use the file of vectors")
    ids = np.sort(ids)
    index.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]
    try:
        index.reconstruct(int(ids[0]))
    except RuntimeError:
        raise NotRebuilt(f"a {kind} does not give its vectors back; use the file of vectors") from None
    vectors = np.full((len(ids), index.d), np.nan, dtype=np.float32)
    for row, number in enumerate(ids.tolist()):
        index.reconstruct(number, vectors[row])
    return Rebuilt(vectors, None if ids[-1] == len(ids) - 1 else ids)


def _in_order(inner: Rebuilt) -> NDArray[Any]:
    if inner.ids is not None:
        raise NotRebuilt("the index keeps two sets of ids that do not fit; use the file of vectors")
    return inner.vectors


def _untransformed(index: Any, inner: Rebuilt) -> Rebuilt:
    """Undo the transforms, except those that left dimensions out: there is no way back from them."""
    vectors, remarks = inner.vectors, inner.remarks
    for number in reversed(range(index.chain.size())):
        transform = faiss.downcast_VectorTransform(index.chain.at(number))
        if transform.d_out < transform.d_in:
            kind = type(transform).__name__
            told = f"judged after the {kind} of the index, which keeps {transform.d_out} of {transform.d_in} dimensions"
            return Rebuilt(vectors, inner.ids, (*remarks, told))
        try:
            vectors = transform.reverse_transform(np.ascontiguousarray(vectors))
        except RuntimeError:
            told = f"judged after the {type(transform).__name__} of the index, which has no way back"
            return Rebuilt(vectors, inner.ids, (*remarks, told))
    return Rebuilt(vectors, inner.ids, remarks)


def _limit_memory(path: Path) -> None:
    try:
        import resource
    except ImportError:  # only Unix has it
        return
    most = _MEMORY + 20 * path.stat().st_size
    for limit, wanted in ((resource.RLIMIT_AS, most), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS sets no limit below what is mapped already
            resource.setrlimit(limit, (wanted, hard))


def main(path: Path, folder: Path) -> int:
    """Write ``vectors.npy``, and ``ids.npy`` where there are own ids; the kind and remarks go to standard output."""
    _limit_memory(path)
    try:
        index = faiss.read_index(str(path))  # owns all that is found within
    except Exception as error:
        line = (str(error).strip().splitlines() or ["no reason given"])[-1][:120]
        return _refuse(f"not a readable FAISS index ({line})")
    try:
        found = rebuild(index)
    except NotRebuilt as error:
        return _refuse(str(error))
    except Exception as error:
        return _refuse(f"the index does not give its vectors back ({str(error).splitlines()[-1:] or ''})"[:200])
    np.save(folder / "vectors.npy", found.vectors)
    if found.ids is not None:
        np.save(folder / "ids.npy", found.ids)
    sys.stdout.write("\n".join([type(faiss.downcast_index(index)).__name__, *found.remarks]) + "\n")
    return 0


def _refuse(line: str) -> int:
    sys.stderr.write(" ".join(line.split()) + "\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
