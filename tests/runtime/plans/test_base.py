"""What holds for every plan, whatever its layout."""

import gc
import weakref

import pytest
import torch

from fapool.instrument.recorder import Recorder
from fapool.phases import Role
from fapool.runtime import plans
from fapool.runtime.seat import Groups, take
from fapool.spec import FAPool, Helix, Static, Workload
from fapool.topology import place
from fapool.workload import requests_of
from tests.synthetic import small_spec

ALONE = Groups(world=None, tokens=None, peers=None, shards=None)


@pytest.mark.parametrize("plan", [Static(), FAPool(base=1), Helix()], ids=str)
def test_the_keys_of_a_plan_go_with_its_last_reference(plan):
    # A cycle would keep them until the next collection: two caches where there is room for one.
    spec = small_spec(plan=plan, workload=Workload(batch=2, context=16, output=2))
    cpu = torch.device("cpu")
    recorder = Recorder(rank=0, role=Role.BASE, device=cpu)
    seat = take(spec, place(spec, 0), device=cpu, groups=ALONE, recorder=recorder)
    gc.disable()
    try:
        made = plans.make(seat, spec, requests_of(spec))
        cache = weakref.ref(made.cache)
        made.close()
        del made
        assert cache() is None
    finally:
        gc.enable()
