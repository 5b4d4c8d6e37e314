"""Every plan generates what one device does: tokens and logits of whole generations.

Contexts are chosen around what could go wrong: at, one below and one above the threshold (12) and
the borders of blocks (4) and chunks (8); a context of 1 that crosses while it is decoded; a lease
that ends with its prefill, one that begins with its last token.
"""

import pytest
import torch

from fapool.errors import SpecError
from fapool.forecast.memory import kv_block_bytes, kv_blocks, peak_blocks
from fapool.phases import Role
from fapool.runtime.check import TOLERANCE
from fapool.runtime.reference import reference_logits
from fapool.runtime.tokens import prompt
from fapool.spec import FAPool, Helix, Model, RunSpec, Static, Workload
from fapool.topology import lease_width, place
from fapool.workload import Request
from tests.runtime.crew import Crew

pytestmark = [pytest.mark.ranks, pytest.mark.untimed]

BLOCK, CHUNK, THRESHOLD = 4, 8, 12
MIXED = ((11, 3), (12, 2), (13, 4), (1, 14), (20, 1), (12, 1), (16, 5), (3, 2), (29, 3), (11, 2))
MHA, GQA, MQA = 4, 2, 1


def make_model(kv_heads: int = MHA, **changes) -> Model:
    sizes = {"layers": 2, "hidden": 24, "heads": 4, "head_dim": 8, "ffn": 36, "vocab": 53}
    return Model(kv_heads=kv_heads, **(sizes | {"dtype": "float64"} | changes))


def make_spec(plan, *, model: Model | None = None, batch: int = 3, **changes) -> RunSpec:
    fields = {"model": model or make_model(), "plan": plan, "device": "cpu", "block": BLOCK}
    fields |= {"prefill_chunk": CHUNK, "seed": 3}
    work = Workload(batch=batch, context=32, output=16)
    return RunSpec(workload=work, **(fields | changes))


def fapool(base: int, pool: int, **changes) -> FAPool:
    return FAPool(base=base, pool=pool, **({"threshold": THRESHOLD} | changes))


def check_equal(crew: Crew, spec: RunSpec, requests=MIXED) -> list[dict]:
    """Play, compare with the reference, check what holds for every run; what came of each rank."""
    played = [p for p in crew.ask("play", spec=spec.to_json(), requests=requests) if p is not None]
    model, exact = spec.model, spec.model.dtype in ("float64", "float32")
    speakers = [p for p in played if p["logits"]]
    assert len(speakers) == speaking(spec.plan)
    asked = [Request(id=i, context=c, output=o) for i, (c, o) in enumerate(requests)]
    for speaker in speakers:
        sequences = [
            torch.cat(
                [
                    prompt(r, vocab=model.vocab, seed=spec.seed),
                    torch.tensor(speaker["tokens"][r.id][:-1], dtype=torch.int64),
                ]
            )
            for r in asked
        ]
        logits = reference_logits(model, spec.seed, sequences, torch.device("cpu"))
        for request, expected in zip(asked, logits, strict=True):
            expected, found = expected[request.context - 1 :], speaker["logits"][request.id]
            assert found.shape == expected.shape == (request.output, model.vocab)
            error = float((found.double() - expected).norm() / expected.norm())
            assert error <= TOLERANCE[model.dtype]
            if exact:
                assert speaker["tokens"][request.id] == expected.argmax(-1).tolist()
        assert speaker["tokens"] == speakers[0]["tokens"]
    check_memory(spec, asked, played)
    return played


def speaking(plan) -> int:
    """Ranks that hold a slice of the logits."""
    if isinstance(plan, Static):
        return plan.tp
    return plan.base if isinstance(plan, FAPool) else plan.world


def check_memory(spec: RunSpec, requests: list[Request], played: list[dict]) -> None:
    """Reserved is what was forecast, and nothing lies anywhere at the end."""
    peak = peak_blocks(spec, requests)
    for rank, came in enumerate(played):
        at = place(spec, rank)
        assert came["kv_bytes"] == kv_blocks(at, peak) * kv_block_bytes(spec, at)
        assert came["kv_used_at_end"] == 0
        assert came["leases"][-1]["leased"] == []


GRIDS = [(tp, pp, kv) for tp, pp in ((2, 1), (4, 1), (2, 2)) for kv in (MHA, GQA, MQA)]
GRIDS += [(1, 1, MHA), (1, 1, MQA), (1, 2, GQA), (1, 4, MHA)]


@pytest.mark.parametrize(("tp", "pp", "kv_heads"), GRIDS)
def test_static_layouts_equal_one_device(crew, tp, pp, kv_heads):
    model = make_model(kv_heads, layers=5 if pp == 4 else 2)
    check_equal(crew, make_spec(Static(tp=tp, pp=pp), model=model))


@pytest.mark.parametrize(
    ("tp", "pp", "micro_batches"),
    [(1, 2, 1), (1, 2, 3), (2, 2, 1), (2, 2, 5), (1, 4, 2), (1, 4, 3)],
)
def test_micro_batches_change_nothing_even_where_their_number_does_from_step_to_step(
    crew, tp, pp, micro_batches
):
    plan = Static(tp=tp, pp=pp, micro_batches=micro_batches)
    check_equal(crew, make_spec(plan, model=make_model(layers=4), batch=4))


HELIXES = [(kvp, tp, kv) for kvp, tp in ((2, 1), (4, 1), (2, 2)) for kv in (MHA, GQA, MQA)]
HELIXES += [(1, 1, GQA), (1, 4, GQA), (1, 2, MHA)]


@pytest.mark.parametrize(("kvp", "tp", "kv_heads"), HELIXES)
def test_helix_layouts_equal_one_device(crew, kvp, tp, kv_heads):
    check_equal(crew, make_spec(Helix(kvp=kvp, tp=tp), model=make_model(kv_heads)))


@pytest.mark.parametrize(("kvp", "kv_heads"), [(3, 6), (3, 2), (4, 3), (4, 6)])
def test_heads_that_share_keys_unevenly_equal_one_device(crew, kvp, kv_heads):
    check_equal(crew, make_spec(Helix(kvp=kvp), model=make_model(kv_heads, heads=12)))


POOLS = [(base, pool, kv) for base, pool in ((1, 3), (2, 1), (2, 2)) for kv in (MHA, GQA, MQA)]
POOLS += [(1, 0, GQA), (2, 0, MQA), (1, 1, MHA), (1, 1, MQA), (1, 2, GQA)]


@pytest.mark.parametrize(("base", "pool", "kv_heads"), POOLS)
def test_pools_of_every_shape_equal_one_device(crew, base, pool, kv_heads):
    check_equal(crew, make_spec(fapool(base, pool), model=make_model(kv_heads)))


@pytest.mark.parametrize("kv_heads", [3, 1])
def test_three_base_ranks_and_one_of_the_pool_equal_one_device(crew, kv_heads):
    check_equal(crew, make_spec(fapool(3, 1), model=make_model(kv_heads, heads=6)))


@pytest.mark.parametrize(("pool", "lease_ranks"), [(2, 1), (3, 1), (3, 2)])
def test_leases_narrower_than_the_pool_equal_one_device(crew, pool, lease_ranks):
    spec = make_spec(fapool(1, pool, lease_ranks=lease_ranks), model=make_model(GQA))
    check_equal(crew, spec)


JOINT = [(1, pool, kv) for pool in (1, 2, 3) for kv in (MHA, MQA)]
JOINT += [(2, 1, GQA), (2, 1, MQA), (2, 2, MHA), (2, 2, GQA), (2, 2, MQA)]


@pytest.mark.parametrize(("base", "pool", "kv_heads"), JOINT)
def test_a_base_that_attends_beside_its_pool_equals_one_device(crew, base, pool, kv_heads):
    plan = fapool(base, pool, base_attends=True)
    check_equal(crew, make_spec(plan, model=make_model(kv_heads)))


@pytest.mark.parametrize(("pool", "lease_ranks"), [(2, 1), (3, 1), (3, 2)])
def test_a_base_that_attends_beside_narrow_leases_equals_one_device(crew, pool, lease_ranks):
    plan = fapool(1, pool, lease_ranks=lease_ranks, base_attends=True)
    check_equal(crew, make_spec(plan, model=make_model(GQA)))


@pytest.mark.parametrize("base", [1, 2])
def test_a_base_that_attends_lends_in_the_middle_of_decoding_and_keeps_its_share(crew, base):
    """Alone, a request of n tokens: all at home, then dealt to base and pool within a block."""
    spec = make_spec(fapool(base, 2, base_attends=True), batch=1)
    played = check_equal(crew, spec, ((9, 24),))
    assert played[0]["leased_at"] == {0: THRESHOLD}
    keepers = {place(spec, rank).keeper: came for rank, came in enumerate(played)}
    steps = zip(*(came["steps"]["kv_tokens"] for came in keepers.values()), strict=True)
    lengths = [8, 9, *range(10, 33)]  # a prompt in chunks of 8, then token by token
    for length, held in zip(lengths, steps, strict=True):
        assert sum(held) == length
        if length > THRESHOLD:
            assert max(held) - min(held) <= BLOCK
        else:
            assert held[0] == length


@pytest.mark.parametrize(
    "plan",
    [
        Static(tp=2, pp=2),
        Helix(kvp=2, tp=2),
        fapool(1, 3),
        fapool(2, 2),
        fapool(1, 2, base_attends=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_other_dtypes_stay_within_their_tolerance(crew, plan, dtype):
    check_equal(crew, make_spec(plan, model=make_model(GQA, dtype=dtype)))


@pytest.mark.parametrize(
    "plan",
    [
        Static(tp=1, pp=2),
        Helix(kvp=2),
        fapool(1, 3),
        fapool(2, 2),
        fapool(1, 2, base_attends=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 64])
def test_one_slot_and_more_slots_than_requests_equal_one_device(crew, plan, batch):
    check_equal(crew, make_spec(plan, batch=batch))


@pytest.mark.parametrize("context", [5, 8, 9])
def test_a_lease_with_fewer_blocks_than_columns_leaves_some_of_them_empty(crew, context):
    spec = make_spec(fapool(1, 3, threshold=4), batch=4)
    played = check_equal(crew, spec, ((context, 2), (context, 1), (40, 2), (context, 6)))
    assert all(came["kv_bytes"] for came in played[1:])


@pytest.mark.parametrize("plan", [fapool(1, 3), Helix(kvp=3)], ids=str)
@pytest.mark.parametrize("block", [1, 3, 12])
def test_blocks_of_any_size_equal_one_device(crew, plan, block):
    model = make_model(3, heads=6)
    check_equal(crew, make_spec(plan, model=model, block=block, prefill_chunk=12))


@pytest.mark.parametrize("plan", [fapool(2, 2), Helix(kvp=4)], ids=str)
def test_a_whole_prompt_in_one_chunk_equals_one_device(crew, plan):
    check_equal(crew, make_spec(plan, prefill_chunk=200, batch=8))


def test_a_thread_of_tokens_longer_than_the_threshold_is_leased_once_it_has_too_many_keys(crew):
    played = check_equal(crew, make_spec(fapool(1, 3)))
    due = {i: c + o - 1 > THRESHOLD or c > THRESHOLD for i, (c, o) in enumerate(MIXED)}
    at = {
        i: (0 if c > THRESHOLD else THRESHOLD) if due[i] else -1 for i, (c, o) in enumerate(MIXED)
    }
    assert played[0]["leased_at"] == at


SHORT = ((12, 1), (11, 2), (1, 12), (5, 3), (8, 5), (4, 9))


def test_requests_up_to_the_threshold_never_touch_the_pool(crew):
    base, *pool = check_equal(crew, make_spec(fapool(1, 3)), SHORT)
    for came in pool:
        assert sum(came["events"]["bytes"]) == 0
        assert set(came["events"]["category"]) <= {"management", "synchronization"}
        assert came["kv_bytes"] == 0
        assert set(came["steps"]["kv_tokens"]) == set(came["steps"]["leased"]) == {0}
    assert set(base["events"]["channel"]) == {""}


def test_one_request_more_than_the_threshold_does(crew):
    _, *pool = check_equal(crew, make_spec(fapool(1, 3)), (*SHORT, (13, 1)))
    assert all(sum(came["events"]["bytes"]) > 0 for came in pool)


@pytest.mark.parametrize("lease_ranks", [None, 2])
def test_keys_of_a_lease_spread_over_its_ranks_within_one_block(crew, lease_ranks):
    """Alone, a request of n tokens: all on the pool once leased, none a block ahead."""
    spec = make_spec(fapool(1, 3, lease_ranks=lease_ranks), batch=1)
    base, *pool = check_equal(crew, spec, ((9, 24),))
    steps = zip(*(came["steps"]["kv_tokens"] for came in (base, *pool)), strict=True)
    lengths = [8, 9, *range(10, 33)]  # a prompt in chunks of 8, then token by token
    for length, (here, *there) in zip(lengths, steps, strict=True):
        assert (here, sum(there)) == ((length, 0) if length <= THRESHOLD else (0, length))
        held = sorted(there)[-lease_width(spec) :]
        assert held[-1] - held[0] <= BLOCK
        assert sum(held) == sum(there)


def test_ranks_of_both_roles_agree_on_who_is_leased_at_every_step(crew):
    played = check_equal(crew, make_spec(fapool(2, 2), batch=4))
    assert all(came["leases"] == played[0]["leases"] for came in played)
    assert all(step["bound"] == bool(step["leased"]) for step in played[0]["leases"])
    assert {step["bound"] for step in played[0]["leases"]} == {False, True}
    roles = [place(make_spec(fapool(2, 2)), rank).role for rank in range(4)]
    assert roles == [Role.BASE, Role.BASE, Role.POOL, Role.POOL]


def test_heads_that_no_slice_divides_are_refused_before_ranks_start():
    with pytest.raises(SpecError, match=r"plan.base = 3: choose a divisor of model.heads = 4"):
        make_spec(fapool(3, 1))
