"""Rows that TorchRec keeps, shares out over ranks and moves by its fused optimiser (the extra ``torchrec``)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from twotower.core.errors import InputError
from twotower.ops.exchange import Place, lost_rank

_NAME = "rows"


class Collection:
    """Hold one table in TorchRec: by rows over all ranks, or alone in one fused collection.

    Args:
        num_rows: rows on all ranks; a multiple of them.
        dim: width of a row.
        place: which process this is, of how many.
        device: where the rows of this process are.
        eps: of row-wise Adagrad.

    Attributes:
        rows: those of this process, TorchRec's own memory.
        squares: the state of its optimiser, one number a row, likewise.
    """

    def __init__(self, num_rows: int, dim: int, place: Place, device: torch.device, *, eps: float) -> None:
        self.place, self.alone = place, place.size == 1
        sizes = {"num_embeddings": num_rows, "embedding_dim": dim, "name": _NAME, "feature_names": [_NAME]}
        with warnings.catch_warnings():  # of its own imports
            warnings.simplefilter("ignore", DeprecationWarning)
            self.module = (_fused_alone if self.alone else _shared_out)(sizes, {"lr": 0.0, "eps": eps}, device, place)
        self.optimizer = self.module.fused_optimizer() if self.alone else self.module.fused_optimizer
        self.rows, self.squares = _only(self.module.state_dict()), _only(_only(self.optimizer.state_dict()["state"]))

    def look_up(self, places: Int[Tensor, " rows"]) -> Float[Tensor, "rows dim"]:
        """Return the rows at these places. Every rank calls it."""
        # FBGEMM has no kernel for inference mode, whose tensors it may not keep either.
        with torch.inference_mode(False), torch.no_grad(), lost_to_torchrec():
            return self._rows_at(places.clone())

    def move(self, places: Int[Tensor, " rows"], gradient: Float[Tensor, "rows dim"], rate: float) -> None:
        """Move the rows at distinct places by one step of row-wise Adagrad. Every rank calls it."""
        if self.alone and not len(places):
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()  # sets the rate; the rows move in the backward pass
        with torch.enable_grad(), lost_to_torchrec():
            self._rows_at(places).backward(gradient * self._divided_by())

    def _rows_at(self, places: Tensor) -> Tensor:
        lengths = (
            torch.ones_like(places) if self.alone else places.new_tensor([len(places)])
        )  # bags of one, or one list
        asked = check_torchrec().KeyedJaggedTensor(keys=[_NAME], values=places, lengths=lengths)
        found = self.module(asked)
        return found.values() if self.alone else found[_NAME].values()

    def _divided_by(self) -> int:
        """What TorchRec divides gradients by on their way to the owners: unless told otherwise, the number of ranks."""
        from torchrec.distributed.comm_ops import get_gradient_division

        return self.place.size if get_gradient_division() else 1


@contextlib.contextmanager
def lost_to_torchrec() -> Iterator[None]:
    """Turn what a backend raises within TorchRec when a rank is gone, or late, into one line; other errors stay.

    Raises:
        LostOwnerError: says that a rank did not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        with lost_rank():
            raise


def check_torchrec() -> ModuleType:
    """Return TorchRec.

    Raises:
        InputError: if it is not installed, or does not load beside this PyTorch.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import torchrec
    except ModuleNotFoundError as error:
        raise InputError(
            f"model.table = 'torchrec' needs TorchRec (no {error.name}): pip install 'twotower[torchrec]'"
        ) from None
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"TorchRec does not load beside PyTorch {torch.__version__} ({error}): its version, FBGEMM's and PyTorch's "
            "are exact triples; take that of the extra 'torchrec'"
        ) from None
    return torchrec


def _fused_alone(sizes: dict[str, Any], adagrad: dict[str, float], device: torch.device, place: Place) -> Any:
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
    from torchrec.optim import RowWiseAdagrad

    return FusedEmbeddingBagCollection([EmbeddingBagConfig(**sizes)], RowWiseAdagrad, adagrad, device=device)


def _shared_out(sizes: dict[str, Any], adagrad: dict[str, float], device: torch.device, place: Place) -> Any:
    from torchrec import EmbeddingCollection, EmbeddingConfig
    from torchrec.distributed.comm import get_local_size
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
    from torchrec.distributed.types import ShardingEnv
    from torchrec.optim import RowWiseAdagrad
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

    drawn = EmbeddingCollection(tables=[EmbeddingConfig(**sizes)], device=torch.device("meta"))
    apply_optimizer_in_backward(RowWiseAdagrad, drawn.parameters(), adagrad)
    sharder = EmbeddingCollectionSharder()
    plan = construct_module_sharding_plan(
        drawn,
        {_NAME: row_wise(compute_kernel="fused")},
        sharder=sharder,
        local_size=get_local_size(place.size),
        world_size=place.size,
        device_type=device.type,
    )
    assert dist.group.WORLD is not None
    return sharder.shard(drawn, plan, ShardingEnv.from_process_group(dist.group.WORLD), device)


def _only(parts: dict[str, Any]) -> Any:
    """The one value of a dictionary; of a tensor that is shared out, this process's part."""
    [value] = parts.values()
    return value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
