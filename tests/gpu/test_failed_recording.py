# mypy: allow-untyped-defs, allow-incomplete-defs
"""On a GPU: after a recording that failed, all goes on as if nobody had tried."""

from __future__ import annotations

import pytest
import torch

from twotower.ops.cuda_graph import recorded

pytestmark = pytest.mark.gpu


def draws(own):
    return torch.rand(4, device="cuda") + torch.rand(4, device="cuda", generator=own)


def fails(own):
    """Record what waits for the device, once it has drawn."""
    with pytest.raises(RuntimeError):
        recorded(lambda: draws(own) * float(draws(own).sum()), [own], errors="thread_local")


def seeded(own):
    torch.manual_seed(5)
    own.manual_seed(6)
    return own


def test_draws_go_on_where_they_were_on_the_same_stream():
    own, here = torch.Generator("cuda"), torch.cuda.current_stream()
    seeded(own)
    expected = [draws(own) for _ in range(3)]
    seeded(own)
    found = []
    for _ in range(3):
        found.append(draws(own))
        fails(own)
        assert torch.cuda.current_stream() == here
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_graphs_that_were_recorded_before_and_after_draw_as_plain_work_does():
    own = torch.Generator("cuda")
    seeded(own)
    expected = [draws(own) for _ in range(6)]
    seeded(own)
    before, first = recorded(lambda: draws(own), [own])
    fails(own)
    after, second = recorded(lambda: draws(own), [own])
    found = []
    for again, result in ((before, first), (after, second)) * 2:
        again()
        found.append(result.clone())
    found += [draws(own), draws(own)]
    torch.testing.assert_close(found, expected)


def test_memory_that_another_stream_has_used_is_free_again():
    def active():
        return torch.cuda.memory_stats()["active_bytes.all.current"]

    fails(torch.Generator("cuda"))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = active()
    part = torch.empty(1 << 20, device="cuda")
    part.record_stream(torch.cuda.Stream())
    del part
    torch.cuda.synchronize()
    torch.empty(1, device="cuda")  # an allocation looks for what has become free
    assert active() == before
