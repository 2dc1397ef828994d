"""What a bundle is measured with besides its own features never reaches the bundle itself."""

from __future__ import annotations

from dataclasses import replace

import torch

from twotower.audit import served_recall
from twotower.serving.bundle import Bundle


def test_a_bundle_answers_with_its_own_features_while_others_are_measured(write, titled_dataset, tmp_path, monkeypatch):
    write(tmp_path / "bundle", titled_dataset, "int_tower")
    bundle = Bundle.load(tmp_path / "bundle")
    own = {name: part.clone() for name, part in bundle.model.state_dict(keep_vars=False).items()}
    kept = {name: part.clone() for name, part in bundle.model.named_buffers()}
    features = {name: torch.ones_like(column) for name, column in bundle.dataset.item_features.items()}
    worse = replace(bundle.dataset, item_features=features)
    asked = []

    def evaluate(model, dataset, targets, protocol):
        same = all(part.equal(kept[name]) for name, part in bundle.model.named_buffers())
        told = any(not part.equal(kept[name]) for name, part in model.named_buffers())
        asked.append((model is bundle.model, same, told))
        return right(model, dataset, targets, protocol)

    right = served_recall.evaluate
    monkeypatch.setattr(served_recall, "evaluate", evaluate)
    served_recall.evaluate_with_features(bundle, worse, *served_recall.tested_on(bundle))
    assert asked == [(False, True, True)], "a copy has the other features, the bundle's model its own"
    assert all(part.equal(own[name]) for name, part in bundle.model.state_dict().items())
