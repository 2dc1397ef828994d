import numpy as np
import torch

from twotower.core.seeds import derive, numpy_generator, torch_generator


def test_seeds_differ_by_seed_purpose_and_grouping():
    purposes = [(1, "shuffle", 3), (2, "shuffle", 3), (1, "shuffle", 4), (1, "dropout", 3), (1, "shuffle"), (1,)]
    seeds = {derive(*purpose) for purpose in purposes} | {derive(1, "a", "bc"), derive(1, "ab", "c")}
    assert len(seeds) == len(purposes) + 2
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derived_seeds_are_the_same_on_every_machine_and_day():
    # A changed number here changes every published result: it is a format, not a detail.
    assert derive(1, "shuffle", 3) == 3613257571486813897


def test_generators_repeat_and_leave_the_global_ones_alone():
    before = torch.get_rng_state()
    first = torch.rand(5, generator=torch_generator(3, "init"))
    torch.testing.assert_close(first, torch.rand(5, generator=torch_generator(3, "init")), rtol=0, atol=0)
    assert not torch.equal(first, torch.rand(5, generator=torch_generator(3, "other")))
    np.testing.assert_array_equal(numpy_generator(3, "x").random(4), numpy_generator(3, "x").random(4))
    assert torch.equal(before, torch.get_rng_state())
