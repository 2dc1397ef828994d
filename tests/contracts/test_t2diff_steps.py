"""How like the truth T2Diff's passes are, in training and when asked, step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from twotower.core.schema import Schema
from twotower.models.registry import build_model
from twotower.models.t2diff import T2Diff
from twotower.towers.diffusion.restore import NextItem, likeness

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = {"dim": 8, "channels": 6, "history_length": 6}
NOISE = {"noise_steps": 10, "restore_steps": 5}


def part_of(**settings: object) -> NextItem:
    model = build_model("t2diff", Schema(14, 11), SMALL | (NOISE if "restored" in settings else {}) | settings)
    assert isinstance(model, T2Diff)
    assert model.next_item is not None
    return model.next_item.double().eval()


@pytest.fixture
def given() -> tuple[Tensor, Tensor, Tensor]:
    """Vectors of histories, of what follows, and where there is something."""
    vectors, following = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    return vectors, following, torch.arange(6) < torch.tensor([6, 2, 1])[:, None]


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(5, 3, 6, 8, dtype=torch.float64)


def test_a_plain_prediction_is_one_pass_and_alike_in_training_and_when_asked(given, noise):
    part = part_of()
    found = part.by_step(*given, noise)
    assert list(found) == [0]
    assert found[0][0] == found[0][1] == pytest.approx(likeness(part(given[0], given[2]), *given[1:]))


@pytest.mark.parametrize("restored", ["as_served", "printed"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_last_pass_when_asked_is_the_answer_that_is_served(given, noise, restored, eta):
    part = part_of(restored=restored, eta=eta)
    fixed = part.noise.double().expand(-1, 3, -1, -1)
    found = part.by_step(*given, fixed)
    assert list(found) == [10, 8, 6, 4, 2]
    assert found[2][1] == pytest.approx(likeness(part(given[0], given[2]), *given[1:]))


def test_the_less_noise_the_more_of_the_answer_is_read_in_training_and_never_when_asked(given, noise, monkeypatch):
    """A network that hands on what it reads: the true drift shows through the noise, and from noise comes noise."""
    part = part_of(restored="printed", schedule="linear", first_beta=0.01, last_beta=0.6)
    monkeypatch.setattr(part.unet, "forward", lambda z, history, mask, step, last=None: z)
    found = part.by_step(*given, noise)
    trained, asked = zip(*found.values(), strict=True)
    assert list(trained) == sorted(trained)
    assert trained[-1] > 0.9
    assert max(asked) < 0.75
    assert trained[0] == pytest.approx(asked[0], abs=0.15)


def test_places_that_do_not_count_have_no_part(given, noise):
    part = part_of(restored="printed")
    vectors, following, mask = given
    other = torch.where(mask[:, :, None], following, torch.randn_like(following))
    assert part.by_step(vectors, other, mask, noise) == part.by_step(vectors, following, mask, noise)


def test_the_picture_has_every_pass_of_the_kept_result_as_the_one_in_the_docs_has(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import t2diff_steps

    monkeypatch.setattr("sys.argv", ["t2diff_steps.py", "--draw", str(tmp_path / "steps.svg")])
    assert t2diff_steps.main() == 0
    kept = BENCHMARKS.parent / "docs" / "images" / "t2diff-steps.svg"
    marks = [path.read_text().count("<use xlink:href") for path in (tmp_path / "steps.svg", kept)]
    assert marks[0] == marks[1] > 60  # two forms, three lines, ten passes
