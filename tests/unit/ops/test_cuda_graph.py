"""A recording that fails leaves PyTorch as it was, played on a CPU by what stands for PyTorch 2.11."""

from __future__ import annotations

import pytest
import torch

from twotower.core.errors import InputError
from twotower.ops import cuda_graph
from twotower.ops.cuda_graph import recorded
from twotower.training.captured_step import on_cuda

OLD, NEW = "_cuda_endAllocateCurrentStreamToPool", "_cuda_endAllocateToPool"


class Pretended:
    """What a recording leaves on the GPU. Up to 2.11 the end of one that failed raises before it clears up."""

    def __init__(self, clears_up):
        self.clears_up = clears_up
        self.stream, self.spoiled, self.pools, self.given_up, self.resets = "main", False, [], [], 0
        self.counting = set()
        outer = self

        class Graph:
            def __init__(self):
                self.generators = {"default"}

            def register_generator_state(self, generator):
                self.generators.add(generator)

            def reset(self):
                outer.resets += 1

            def replay(self):
                pass

        class Recording:
            def __init__(self, graph, pool="private", capture_error_mode="global"):
                self.graph, self.pool, self.before = graph, pool, outer.stream

            def __enter__(self):
                outer.stream = "side"
                outer.counting |= self.graph.generators
                outer.pools.append(self.pool)

            def __exit__(self, *error):
                failed, outer.spoiled = outer.spoiled, False
                if failed and not outer.clears_up:
                    raise RuntimeError("operation failed due to a previous error during capture\nand more")
                outer.pools.remove(self.pool)
                if failed:
                    raise RuntimeError("operation failed due to a previous error during capture\nand more")
                outer.counting -= self.graph.generators
                outer.stream = self.before

        self.CUDAGraph, self.graph = Graph, Recording

    def wait(self):
        """Do in a recording what may not be recorded."""
        self.spoiled = True
        raise RuntimeError("operation not permitted when stream is capturing")

    def set_stream(self, stream):
        self.stream = stream

    def end(self, device, pool):
        if pool not in self.pools:
            raise RuntimeError("not currently recording to mempool_id")
        self.pools.remove(pool)

    def release(self, device, pool):
        self.given_up.append(pool)


@pytest.fixture(params=[(False, OLD), (False, NEW), (True, NEW)], ids=["2.6", "2.11", "2.13"])
def pretended(request, monkeypatch):
    clears_up, name = request.param
    made = Pretended(clears_up)
    for attribute in ("CUDAGraph", "graph", "set_stream"):
        monkeypatch.setattr(torch.cuda, attribute, getattr(made, attribute))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: made.stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device=None: zeros(*shape))
    monkeypatch.delattr(torch._C, NEW, raising=False)
    monkeypatch.setattr(torch._C, name, made.end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", made.release, raising=False)
    monkeypatch.setattr(cuda_graph, "_FAILED", [])
    return made


def test_work_that_can_be_recorded_is(pretended):
    again, found = recorded(lambda: pretended.stream, [torch.Generator()])
    assert found == "side"
    again()
    assert (pretended.stream, pretended.pools, pretended.counting) == ("main", [], set())
    assert not cuda_graph._FAILED


def test_after_a_failure_stream_generators_and_memory_are_those_of_before(pretended):
    own = torch.Generator()
    for failures in (1, 2):
        with pytest.raises(RuntimeError, match="previous error during capture"):
            recorded(pretended.wait, [own])
        assert (pretended.stream, pretended.pools, pretended.counting) == ("main", [], set())
        assert len(cuda_graph._FAILED) == failures
    assert recorded(lambda: 3, [own])[1] == 3


def test_a_pool_is_given_up_once_by_whoever_ended_it(pretended):
    with pytest.raises(RuntimeError):
        recorded(pretended.wait)
    assert (pretended.given_up, pretended.resets) == (([], 1) if pretended.clears_up else ([(0, 7)], 0))


def test_work_that_fails_by_itself_spoils_no_recording(pretended):
    def own():
        raise RuntimeError("its own fault")

    with pytest.raises(RuntimeError, match="its own fault"):
        recorded(own)
    assert (pretended.stream, pretended.pools, pretended.counting) == ("main", [], set())
    assert (pretended.given_up, pretended.resets) == ([], 1)


def test_a_step_that_cannot_be_recorded_is_refused_in_one_line(pretended):
    with pytest.raises(InputError, match=r"cannot be captured \(operation failed .* capture\); set training.capture"):
        on_cuda(pretended.wait, [torch.Generator()])
    assert (pretended.stream, pretended.counting) == ("main", set())
