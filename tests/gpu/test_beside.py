# mypy: allow-untyped-defs, allow-incomplete-defs
"""Two branches of one CUDA graph give what the work gives one after the other."""

from __future__ import annotations

import pytest
import torch

from twotower.core.records import Users
from twotower.core.schema import Schema
from twotower.models.encode import inference
from twotower.models.registry import build_model
from twotower.ops.beside import beside

pytestmark = pytest.mark.gpu


def captured(call):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = call()
    return graph, answer


def test_a_graph_of_two_branches_gives_their_sum_again_and_again():
    x = torch.randn(4096, 256, device="cuda")

    def call():
        other = beside(lambda: (x @ x.T).sin().sum(1), like=x)
        return (x.exp().sum(1)).cos() + other()

    graph, answer = captured(call)
    for _ in range(5):
        x.normal_()
        graph.replay()
        torch.testing.assert_close(answer, call(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("restored", ["predicted", "as_served"])
def test_t2diff_in_one_graph_answers_as_it_does_without(restored):
    torch.manual_seed(0)
    model = build_model("t2diff", Schema(600, 900), {"history_length": 60, "restored": restored}).cuda()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    histories = [torch.randint(2, 900, (512, 60), device="cuda") for _ in range(3)]
    users = Users(torch.arange(2, 514, device="cuda"), {}, histories[0].clone())
    with inference(model):
        graph, answer = captured(lambda: model.encode_users(users))
        for history in histories:
            users.history.copy_(history)
            graph.replay()
            torch.testing.assert_close(answer, model.encode_users(users), rtol=1e-3, atol=1e-3)
