"""The exchange of fixed shape: who stands at its ends, and messages against a merge in fp64.

parent: starts 4 ranks of this very module        child: plays every case, checks what it got
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from itertools import product

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fapool.phases import Role
from fapool.runtime.attention.base import Unmerged
from fapool.runtime.exchange import arena, message_link
from fapool.runtime.exchange.link import route
from fapool.runtime.partial import Partial, merge
from fapool.spec import FAPool, Model, RunSpec, Workload
from fapool.topology import node_of, pool_mesh
from tests.processes import ROOT, python_path

SEED = 7
CASES = {  # base, pool, heads, KV heads
    "columns": (1, 2, 4, 2),
    "head groups": (2, 2, 4, 2),
    "two bases, one pool rank": (2, 1, 4, 4),
    "KV heads held twice": (2, 1, 4, 1),
    "three bases": (3, 1, 6, 3),
}


TEAMS = {  # the same, and ranks of a node: partials are merged among those of the pool there
    "a team of three": (1, 3, 4, 2, 4),
    "a team of two, and one alone": (1, 3, 4, 1, 3),
    "a team in each head group": (2, 2, 4, 1, 4),
}


def make_spec(base: int, pool: int, heads: int, kv_heads: int, node: int = 0, **changes) -> RunSpec:
    sizes = {"layers": 3, "hidden": 32, "head_dim": 8, "ffn": 48, "vocab": 50, "dtype": "float32"}
    model = Model(heads=heads, kv_heads=kv_heads, **(sizes | changes))
    plan = FAPool(base=base, pool=pool, reduction="hierarchical" if node else "flat")
    work = Workload(batch=1, context=8, output=2)
    return RunSpec(model=model, plan=plan, workload=work, ranks_per_node=node or None)


class Scene:
    """One layer of one step, the same on every rank: what is asked, and what columns answer."""

    def __init__(self, spec: RunSpec, rows: int, seed: int, device: torch.device) -> None:
        model, (_, columns) = spec.model, pool_mesh(spec.model, spec.plan)
        made = torch.Generator(device=device).manual_seed(SEED + seed)
        dtype = getattr(torch, model.dtype)

        def drawn(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.randn(*shape, generator=made, device=device).to(dtype)

        H, K, D = model.heads, model.kv_heads, model.head_dim
        self.q, self.k, self.v = drawn(rows, H, D), drawn(rows, K, D), drawn(rows, K, D)
        self.out = drawn(columns + 1, rows, H, D)  # the last: the base's own part
        self.lse = 3 * drawn(columns + 1, rows, H, dtype=torch.float32)
        gone = torch.rand(columns + 1, rows, 1, generator=made, device=device) < 0.4
        self.out.masked_fill_(gone[..., None], 0)
        self.lse.masked_fill_(gone, -torch.inf)
        self.slots = torch.arange(rows, device=device, dtype=torch.int32)
        self.slots = torch.where(gone[0, :, 0], -1, self.slots + 5)

    def merged(self, parts: int, heads: slice) -> Tensor:
        """Every part written out in fp64; zero where all are empty."""
        out, lse = self.out[:parts, :, heads].double(), self.lse[:parts, :, heads].double()
        weight = torch.exp(lse)[..., None]
        total = weight.sum(0)
        return (weight * out).sum(0) / torch.where(total > 0, total, 1.0)


def held(spec: RunSpec, rank: int) -> tuple[slice, slice]:
    """Heads of a rank, and KV heads that a base rank sends, of the whole model."""
    at, (groups, _) = route(spec, rank), pool_mesh(spec.model, spec.plan)
    base = spec.plan.base
    group = rank * groups // base if rank < base else (rank - base) % groups
    first, first_kv = group * at.group_heads, group * at.group_kv_heads
    return (
        slice(first + at.heads.start, first + at.heads.stop),
        slice(first_kv + at.kv_heads.start, first_kv + at.kv_heads.stop),
    )


def play(link, spec: RunSpec, rank: int, layer: int, scene: Scene, pages: Tensor) -> None:
    """One layer at one rank; checks all that arrives."""
    heads, kv = held(spec, rank)
    if rank < spec.plan.base:
        with_own = layer % 2
        link.ask(layer, scene.q[:, heads], scene.k[:, kv], scene.v[:, kv])
        own = Partial(scene.out[-1][:, heads], scene.lse[-1][:, heads]) if with_own else None
        out = link.collect(layer, own)
        expected = scene.merged(len(scene.out) - (not with_own), heads)
        close = {"rtol": 1e-2, "atol": 1e-2} if out.dtype == torch.bfloat16 else {}
        torch.testing.assert_close(out, expected.to(out.dtype), **close)
        return
    groups, _ = pool_mesh(spec.model, spec.plan)
    column = (rank - spec.plan.base) // groups
    append = (pages[0], pages[1], scene.slots) if layer else None
    q, k, v = link.queries(layer, append)
    for found, sent in ((q, scene.q[:, heads]), (k, scene.k[:, kv]), (v, scene.v[:, kv])):
        assert torch.equal(found, sent)
    if append is not None:
        flat, here = pages.flatten(1, 2), scene.slots >= 0
        at = scene.slots[here].long()
        assert torch.equal(flat[0, at], scene.k[:, kv][here])
        assert torch.equal(flat[1, at], scene.v[:, kv][here])
        assert (flat[:, :5] == 1).all(), "a negative slot was written"
    part = Partial(scene.out[column][:, heads], scene.lse[column][:, heads])
    if link.takes_items and layer % 2:
        link.answer_items(layer, cut(part))
    else:
        link.answer(layer, part)


def cut(part: Partial) -> Unmerged:
    """Items that merge to a partial: three of each row in turn, five, one; none of an empty row."""
    here = ~torch.isneginf(part.lse).all(dim=1)
    pieces = torch.tensor([3, 5, 1], device=here.device).repeat(len(here))[: len(here)] * here
    first = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
    row = torch.arange(len(here), device=here.device).repeat_interleave(pieces)
    number = torch.arange(len(row), device=here.device) - first[row]
    weight = (number + 1.0) / (pieces * (pieces + 1) / 2)[row]
    noise = torch.randn(len(row), *part.out.shape[1:], device=here.device)
    mean = torch.zeros(len(here), *noise.shape[1:], device=here.device)
    mean.index_add_(0, row, weight[:, None, None] * noise)
    out = part.out[row].float() + noise - mean[row]
    lse = part.lse[row].float() + weight.log()[:, None]
    return Unmerged(out.contiguous(), lse.contiguous(), first.int())


def play_case(rank: int, case: str) -> None:
    spec, device = make_spec(*(CASES | TEAMS)[case]), torch.device("cpu")
    world = spec.plan.world
    group = dist.new_group(range(world))
    if rank >= world:
        return
    assert "runs on CUDA devices, not on cpu" in arena.unfit(device, group)
    made = {"rows": 4, "dtype": torch.float32, "device": device, "group": group}
    links = message_link.open_links(spec, rank, channels=2, **made)
    pages = torch.ones(2, 3, 4, spec.model.kv_heads // pool_mesh(spec.model, spec.plan)[0], 8)
    for step, layer in product(range(3), range(3)):
        for number, link in enumerate(links):
            rows = (4, 1, 3)[step]
            if not layer:
                link.begin(rows)
            seed = 100 * step + 10 * layer + number
            play(link, spec, rank, layer, Scene(spec, rows, seed, device), pages)


def main(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    patience = timedelta(seconds=40)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=4, timeout=patience)
    for case in (*CASES, *TEAMS):
        play_case(rank, case)
    dist.barrier()
    dist.destroy_process_group()


def start(module: str, ranks: int, *arguments: str, patience_s: float = 90) -> None:
    """Run `module` as `ranks` processes; fails with the output of those that failed."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
    command = [sys.executable, "-m", module]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(store.port), *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        said = [process.communicate(timeout=patience_s)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    failed = [
        text[-3000:] for process, text in zip(started, said, strict=True) if process.returncode
    ]
    assert not failed, "\n\n".join(failed)


@pytest.mark.ranks
def test_messages_bring_every_slice_to_its_place_and_merge_to_attention_over_all_columns():
    start("tests.runtime.exchange.test_link", 4)


@pytest.mark.parametrize("case", [*CASES, *TEAMS])
def test_both_ends_of_a_link_agree_on_what_passes(case):
    spec = make_spec(*(CASES | TEAMS)[case])
    routes = [route(spec, rank) for rank in range(spec.plan.world)]
    for at in routes:
        for index, end in enumerate(at.ends):
            back = routes[end.rank].ends[end.index]
            assert (back.rank, back.index) == (at.rank, index)
            assert (back.heads, back.kv_heads) == (end.heads, end.kv_heads)
            assert (end in at.answers) == (back in routes[end.rank].answers)


@pytest.mark.parametrize("case", [*CASES, *TEAMS])
def test_every_pool_rank_is_in_one_team_whose_first_alone_answers_all_bases(case):
    spec = make_spec(*(CASES | TEAMS)[case])
    routes = [route(spec, rank) for rank in range(spec.plan.base, spec.plan.world)]
    for at in routes:
        assert at.rank in at.team
        assert at.answers == (at.ends if at.rank == at.team[0] else ())
        assert all(routes[rank - spec.plan.base].team == at.team for rank in at.team)
        assert len({node_of(spec, rank) for rank in at.team}) == 1
        assert case in TEAMS or at.team == (at.rank,)
    teams = {(at.team, at.ends[0].rank) for at in routes}
    for rank in range(spec.plan.base):
        assert len(route(spec, rank).answers) == sum(
            rank in [end.rank for end in route(spec, team[0]).ends] for team, _ in teams
        )


@pytest.mark.parametrize("case", CASES)
def test_a_pool_rank_gets_each_head_of_its_group_exactly_once(case):
    spec = make_spec(*CASES[case])
    for rank in range(spec.plan.base, spec.plan.world):
        at = route(spec, rank)
        assert at.role is Role.POOL
        assert [h for end in at.ends for h in end.heads] == list(range(at.group_heads))
        assert [h for end in at.ends for h in end.kv_heads] == list(range(at.group_kv_heads))


def test_a_base_that_shares_its_only_kv_head_with_a_lower_one_sends_none():
    spec = make_spec(*CASES["KV heads held twice"])
    assert [route(spec, rank).sends for rank in (0, 1)] == [slice(0, 1), slice(1, 1)]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))


def test_what_a_partial_is_cut_into_merges_to_it():
    part = Partial(torch.randn(7, 4, 8), torch.randn(7, 4))
    part.lse[2] = -torch.inf
    items = cut(part)
    for row in range(7):
        own = slice(int(items.first[row]), int(items.first[row + 1]))
        if row == 2:
            assert own.start == own.stop
            continue
        merged = merge(
            [
                Partial(items.out[i : i + 1], items.lse[i : i + 1])
                for i in range(own.start, own.stop)
            ]
        )
        torch.testing.assert_close(merged.out[0], part.out[row], rtol=0, atol=1e-5)
        torch.testing.assert_close(merged.lse[0], part.lse[row], rtol=0, atol=1e-5)
