"""The augmented-semantic two-tower: its parts against plain forms, cold items, storage, and that it learns."""

import math

import pytest
import torch
from safetensors.torch import load_model, save_model

from twotower.core.errors import InputError
from twotower.core.records import Items, Users
from twotower.core.schema import Schema
from twotower.data.examples import EventRows
from twotower.losses.pointwise import SampledBCE
from twotower.models.encode import inference
from twotower.models.registry import build_model
from twotower.sampling.known import Positives
from twotower.sampling.uniform import Uniform
from twotower.towers.words import ResidualBlock
from twotower.training.against_samples import AgainstSamples
from twotower.training.config import Training
from twotower.training.loop import fit

SMALL = {"dim": 8, "text_dim": 5, "keyword_dim": 3, "keywords": 2, "dropout": 0.0}


@pytest.fixture
def model(tiny_dataset):
    torch.manual_seed(4)
    model = build_model("semantic", tiny_dataset.schema, SMALL)
    model.attach_items(tiny_dataset.all_items())
    return model.eval()


def test_residual_block_matches_plain_arithmetic():
    block = ResidualBlock(3).double()
    norm, wide, _, narrow, _ = block.inner
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = []
    for row in x.tolist():
        mean = sum(row) / 3
        deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / 3 + norm.eps)
        normed = [(value - mean) / deviation for value in row]
        hidden = [sum(w * v for w, v in zip(weights, normed, strict=True)) for weights in wide.weight.tolist()]
        hidden = [value + bias for value, bias in zip(hidden, wide.bias.tolist(), strict=True)]
        hidden = [0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in hidden]
        out = [sum(w * v for w, v in zip(weights, hidden, strict=True)) for weights in narrow.weight.tolist()]
        expected.append([a + b + c for a, b, c in zip(row, out, narrow.bias.tolist(), strict=True)])
    assert wide.out_features == 12
    torch.testing.assert_close(block(x), torch.tensor(expected, dtype=torch.float64))


def test_keywords_are_the_words_of_highest_idf_each_once(model):
    (field,) = model.items.fields
    field.idf[:] = torch.tensor([0.0, 0.0, 5.0, 1.0, 4.0, 3.0, 0, 0, 0, 0, 0, 0])
    words = torch.tensor([[3, 2, 2, 5], [4, 4, 4, 3], [1, 1, 0, 0], [6, 0, 0, 0]])
    assert field.keywords_of(words).tolist() == [[2, 5], [4, 3], [0, 0], [0, 0]]


def test_only_texts_count_so_a_cold_item_is_as_good_as_a_known_one(model, tiny_dataset):
    known = tiny_dataset.items(torch.tensor([4, 7]))
    other = {name: torch.zeros_like(value) for name, value in known.features.items()}
    cold = Items(torch.ones(2, dtype=torch.int64), other | {"title": known.features["title"]})
    torch.testing.assert_close(model.encode_items(cold), model.encode_items(known))


def test_an_encoders_vector_counts_for_items_and_in_histories_by_its_direction(tiny_dataset):
    torch.manual_seed(4)
    model = build_model("semantic", tiny_dataset.schema, SMALL | {"vectors": ["picture"]}).eval()
    items = tiny_dataset.all_items()
    model.attach_items(items)
    known = tiny_dataset.items(torch.tensor([4]))
    user = Users(torch.tensor([2]), {}, torch.tensor([[4]]))
    before = model.encode_items(known), model.encode_users(user)

    def changed(picture):
        features = items.features | {"picture": items.features["picture"].clone()}
        features["picture"][4] = picture
        model.attach_items(items._replace(features=features))
        return model.encode_items(known._replace(features=known.features | {"picture": picture[None]})), (
            model.encode_users(user)
        )

    for old, new in zip(before, changed(3.0 * known.features["picture"][0]), strict=True):
        torch.testing.assert_close(new, old)
    for old, new in zip(before, changed(torch.tensor([0.0, -9.0, 1.0])), strict=True):
        assert not torch.allclose(new, old)
    model.attach_items(items)
    with pytest.raises(
        InputError, match="vectors = \\['title'\\]: the items' features of kind 'vector' are \\['picture'\\]"
    ):
        build_model("semantic", tiny_dataset.schema, SMALL | {"vectors": ["title"]})


def test_keyword_features_take_the_place_of_the_words_of_highest_idf(tiny_dataset):
    torch.manual_seed(4)
    model = build_model("semantic", tiny_dataset.schema, SMALL | {"keyword_features": ["genres"]}).eval()
    items = tiny_dataset.all_items()
    model.attach_items(items)
    (field,), (table,) = model.items.fields, model.items.tables
    title = field(items.features["title"])
    assert title.shape[1] == SMALL["text_dim"]
    fed = []
    model.items.project.register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0]))
    tags = torch.tensor([[3, 0, 4], [1, 3, 0], [1, 0, 0]])
    model.encode_items(Items(torch.tensor([2, 3, 4]), {"title": items.features["title"][2:5], "genres": tags}))
    weights = table.weight.double()
    expected = [(weights[3] + weights[4]) / 2, weights[3], torch.zeros(SMALL["keyword_dim"], dtype=torch.float64)]
    torch.testing.assert_close(fed[0][:, : SMALL["text_dim"]], title[2:5])
    torch.testing.assert_close(fed[0][:, SMALL["text_dim"] :].double(), torch.stack(expected))
    user = Users(torch.tensor([2]), {}, torch.tensor([[4]]))
    before = model.encode_users(user)
    changed = items.features["genres"].clone()
    changed[4] = torch.tensor([4] + [0] * (changed.shape[1] - 1)) if changed[4][0] != 4 else 3
    model.attach_items(items._replace(features=items.features | {"genres": changed}))
    assert not torch.allclose(model.encode_users(user), before)
    with pytest.raises(InputError, match="keyword_features = \\['title'\\]: the items' features of kind"):
        build_model("semantic", tiny_dataset.schema, SMALL | {"keyword_features": ["title"]})


def test_order_of_the_history_counts_padding_does_not(model):
    def encode(*history):
        history = torch.tensor([history])
        return model.encode_users(Users(torch.tensor([1]), {}, history))

    torch.testing.assert_close(encode(3, 5, 7), encode(3, 5, 7, 0, 0))
    assert not torch.allclose(encode(3, 5, 7), encode(7, 5, 3))
    assert not encode(0, 0).any()


def test_batch_equals_single(model):
    histories = torch.tensor([[2, 3, 4], [5, 0, 0], [0, 0, 0], [9, 8, 0]])
    whole = model.encode_users(Users(torch.arange(2, 6), {}, histories))
    for row, history in enumerate(histories):
        torch.testing.assert_close(model.encode_users(Users(torch.tensor([2]), {}, history[None]))[0], whole[row])


def test_stored_weights_are_all_there_is_and_texts_are_fitted_once(model, tiny_dataset, tmp_path):
    save_model(model, str(tmp_path / "weights.safetensors"))
    again = build_model("semantic", tiny_dataset.schema, SMALL)
    load_model(again, tmp_path / "weights.safetensors")
    items = tiny_dataset.all_items()
    torch.testing.assert_close(again.eval().encode_items(items), model.encode_items(items))
    idf = again.items.fields[0].idf.clone()
    blank = Items(items.ids, items.features | {"title": torch.zeros_like(items.features["title"])})
    again.attach_items(blank)
    assert torch.equal(again.items.fields[0].idf, idf)
    assert not again.history_texts.any()


@pytest.mark.slow
def test_it_learns(tiny_dataset):
    torch.manual_seed(0)
    model = build_model("semantic", tiny_dataset.schema, SMALL)
    model.attach_items(tiny_dataset.all_items())
    log, count = tiny_dataset.log, tiny_dataset.schema.num_items
    sampler = Uniform(count, 4, torch.Generator().manual_seed(0))
    objective = AgainstSamples(tiny_dataset, sampler, SampledBCE(), Positives(log.offsets, log.items, count))
    rows = EventRows(tiny_dataset, log, history_length=5, item_features=True)
    progress = fit(model, rows, objective, Training(epochs=60, batch_size=9, learning_rate=1e-2))
    assert progress.records[-1].loss < 0.5 * progress.records[0].loss
    with inference(model):
        assert model.encode_items(tiny_dataset.all_items()).isfinite().all()


def test_items_without_text_are_refused():
    with pytest.raises(InputError, match="no feature of kind 'text'"):
        build_model("semantic", Schema(5, 5))
