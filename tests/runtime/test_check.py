"""A kernel that attends whole grains in a way of its own is held against fp64 before a run, and
a run whose pool opens prompts before the base joins plays that, small.
"""

import pytest
import torch

from fapool.deals import BASE
from fapool.errors import CheckFailed, SpecError
from fapool.forecast.buffers import PROBE_BLOCKS, most_rows
from fapool.pieces import IN_FLIGHT, piece_rows
from fapool.runtime.attention.reference import Reference
from fapool.runtime.batch import pieces
from fapool.runtime.check import OPENING, OUTPUT, probe, prove
from fapool.runtime.exchange.lanes import places_of
from fapool.runtime.exchange.link import route
from fapool.schedule import steps
from fapool.spec import FAPool, Model, RunSpec, Workload, parse
from fapool.store import Store
from fapool.topology import lease_width, lent_deal

MODEL = Model.preset("tiny")
BLOCK = 4
BORDER = OPENING * BLOCK


class Grained(Reference):
    """Right below a grain; off by `slip` where keys fill one."""

    name, grain = "grained", 64

    def __init__(self, slip: float) -> None:
        self.slip = slip

    def dense(self, q, k, v, *, causal):
        out, lse = super().dense(q, k, v, causal=causal)
        return out * (1 + self.slip * (k.shape[1] > self.grain)), lse


def test_a_kernel_that_is_right_passes():
    prove(Grained(0.0), MODEL, torch.device("cpu"))
    prove(Reference(), MODEL, torch.device("cpu"))


def test_one_that_is_wrong_only_where_keys_fill_grains_is_refused():
    with pytest.raises(CheckFailed, match=r"grained attends 64 queries over 213 keys .* 1.0e-02"):
        prove(Grained(1e-2), MODEL, torch.device("cpu"))


def test_one_that_gives_no_number_is_refused():
    with pytest.raises(CheckFailed, match="nan"):
        prove(Grained(float("nan")), MODEL, torch.device("cpu"))


def joint(
    base: int, pool: int, kv_heads: int = 8, *, output: int = 1, block: int = BLOCK, **changes
) -> RunSpec:
    """Small, with prompts past their opening; `changes`: the plan's."""
    plan = {"base": base, "pool": pool, "threshold": 12, "base_attends": True}
    return RunSpec(
        model=Model.preset("tiny", heads=8, kv_heads=kv_heads),
        plan=FAPool(**(plan | changes)),
        workload=Workload(batch=1, context=2000, output=output),
        block=block,
        prefill_chunk=2 * block,
        warmup=0,
        device="cpu",
    )


def dealt(spec: RunSpec) -> tuple[int, ...]:
    return lent_deal(spec, range(lease_width(spec))).pattern


MESHES = [(1, 1, 8), (1, 3, 2), (2, 2, 8), (2, 2, 1), (2, 1, 1), (4, 4, 1)]


@pytest.mark.parametrize(("base", "pool", "kv_heads"), MESHES)
def test_a_late_joining_base_is_probed_with_the_rounds_of_the_run_and_a_short_opening(
    base, pool, kv_heads
):
    spec = joint(base, pool, kv_heads)
    run, (small, requests) = dealt(spec), probe(spec)
    first, probed = run.index(BASE), dealt(small)
    assert probed.index(BASE) == OPENING < first
    assert probed[:OPENING] == run[:OPENING]
    rounds = probed[OPENING:]
    assert rounds == run[first : first + len(rounds)]
    lengths = [request.context for request in requests]
    assert {BORDER - 1, BORDER, BORDER + 1} < set(lengths)
    assert max(lengths) == BLOCK * (len(probed) - 1) + 1  # with a whole block of the second round
    assert set(rounds[:-2]) == set(run)  # everybody's turn was before the second round
    assert {request.output for request in requests} == {1}


@pytest.mark.parametrize(("base", "opening"), [(1, (0,)), (4, ())])
def test_an_opening_that_is_shorter_than_the_probe_would_make_it_stays(base, opening):
    block = 2048
    spec = joint(base, 1, 1, threshold=block, block=block)
    spec = spec.replace(workload=Workload(context=4 * block, output=1))
    first = len(opening)
    assert dealt(spec)[: first + 1] == (*opening, BASE)
    small, requests = probe(spec)
    assert dealt(small)[: first + 1] == (*opening, BASE)
    assert dealt(small)[first:4] == dealt(spec)[first:]
    assert all(request.context >= 1 for request in requests)


@pytest.mark.parametrize("overlap", ["auto", "always", "never"])
@pytest.mark.parametrize(("base", "pool", "kv_heads"), MESHES)
def test_the_seat_of_a_run_has_room_for_its_probe(base, pool, kv_heads, overlap):
    spec = joint(base, pool, kv_heads, overlap=overlap)
    small, requests = probe(spec)
    assert small.workload.batch <= most_rows(spec)
    rows = max(piece_rows(spec), PROBE_BLOCKS * BLOCK)
    for rank in range(spec.plan.world):
        at = route(spec, rank)
        assert (
            places_of(small, at, piece_rows(small)).num_bytes <= places_of(spec, at, rows).num_bytes
        )
    played = steps(requests, batch=small.workload.batch, chunk=small.prefill_chunk)
    cut = [pieces(step.segments, piece_rows(small)) for step in played]
    assert max(map(len, cut)) == (1 if overlap == "never" else IN_FLIGHT)


@pytest.mark.parametrize(
    "spec",
    [joint(1, 3, output=2), joint(1, 3, base_attends=False)],
    ids=["decodes", "base does not attend"],
)
def test_other_pools_are_probed_around_the_threshold(spec):
    small, requests = probe(spec)
    assert type(small.plan) is FAPool
    assert small.threshold == 2 * BLOCK + 3
    assert [request.context for request in requests] == [9, 11, 12, 2, 16]
    assert {request.output for request in requests} == {OUTPUT}
    assert small.workload.output == OUTPUT


def test_no_text_of_a_spec_shortens_an_opening():
    plan = "{kind: fapool, pool: 1, base_attends: true, opening: 1}"
    text = f"{{model: tiny, plan: {plan}, workload: {{context: 9, output: 1}}}}"
    with pytest.raises(SpecError, match=r"^plan\.opening"):
        parse(text)


SEATS = [(1, 1, 8, "always"), (1, 1, 2, "never"), (1, 3, 1, "always"), (1, 3, 8, "never")]
SEATS += [(2, 2, 8, "always"), (2, 2, 2, "never"), (2, 2, 1, "always"), (2, 1, 1, "never")]
FAULTS = [
    ((1, 1, 8, "always"), 0, BASE, BORDER),
    ((1, 1, 2, "never"), 1, 0, BORDER),
    ((1, 3, 1, "always"), 0, BASE, BORDER + 4 * BLOCK),  # of the second round alone
    ((1, 3, 8, "never"), 3, 2, BORDER),
    ((2, 2, 8, "always"), 1, BASE, BORDER),
    ((2, 2, 1, "never"), 3, 1, BORDER),
]


def small_run(crew, profiles, base, pool, kv_heads, overlap, **fault) -> dict:
    """Run past its check, or not; what `correctness.json` says."""
    spec = joint(base, pool, kv_heads, overlap=overlap)
    spec = spec.replace(workload=Workload(batch=1, context=16, output=1))
    folder = Store(profiles).create(spec)
    asked = {"spec": spec.to_json(), "folder": str(folder.path)}
    if fault:
        with pytest.raises(AssertionError, match="CheckFailed"):
            crew.ask("run", **asked, fault=fault)
        return folder.fail(rank=0, reason="its check").correctness
    crew.ask("run", **asked)
    return folder.finish().correctness


@pytest.mark.ranks
@pytest.mark.untimed
@pytest.mark.parametrize(("base", "pool", "kv_heads", "overlap"), SEATS)
def test_runs_whose_base_joins_late_pass(crew, profiles, base, pool, kv_heads, overlap):
    found = small_run(crew, profiles, base, pool, kv_heads, overlap)
    assert found["passed"] is True
    assert found["tokens"] == found["tokens_equal"] == len(found["requests"])


@pytest.mark.ranks
@pytest.mark.untimed
@pytest.mark.parametrize(("seat", "rank", "keeper", "past"), FAULTS)
def test_a_share_that_lacks_a_block_after_the_opening_is_refused(
    crew, profiles, seat, rank, keeper, past
):
    found = small_run(crew, profiles, *seat, rank=rank, keeper=keeper, past=past)
    assert found["passed"] is False
    assert found["error"] > 100 * found["tolerance"]
