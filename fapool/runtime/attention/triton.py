"""The project's own decode kernel: one query per request over keys in blocks, cut by length.

shapes:  B rows, H heads, K KV heads, D dim, I work items
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fapool.runtime.attention.aten import Aten
from fapool.runtime.attention.base import Backend, Unmerged, over
from fapool.runtime.attention.reference import Reference
from fapool.runtime.kernels.splits import SplitPlan, packed_size
from fapool.runtime.rows import FixedRows, KVView, Rows

try:
    import triton

    from fapool.runtime.kernels.combine import combine
    from fapool.runtime.kernels.decode import Decode, decode
except ImportError:
    triton = None

DIMS = (16, 32, 64, 128, 256)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Triton:
    """Reads blocks of any size in place; rows may be empty. What has many queries is another's.

    Work items come with the rows where their shape is fixed (`rows.splits`, a `SplitPlan` on the
    device: graph-safe); else they are planned from the lengths, once per `Rows`. Scratch is kept
    per shape and stream.
    """

    name = "triton"
    page = 1

    def __init__(self) -> None:
        self._scratch: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._kernels: dict[tuple, Decode] = {}
        self._planned: tuple[Rows, Decode, SplitPlan] | None = None

    def unfit(self, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Fits CUDA devices from Ampere on (and the CPU where triton interprets), to fp32."""
        if triton is None:
            return "needs the package triton, which is not installed"
        if device.type != "cuda" and not triton.knobs.runtime.interpret:
            return f"runs on CUDA devices, not on {device.type}"
        if dtype not in DTYPES:
            return f"takes float32, float16 and bfloat16, not {dtype}"
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
            return "needs compute capability 8.0"
        return None if head_dim in DIMS else f"takes head_dim of {DIMS}, not {head_dim}"

    def dense(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
        """See `Backend.dense`."""
        return _other(q).dense(q, k, v, causal=causal)

    def paged(self, q: Tensor, view: KVView) -> tuple[Tensor, Tensor]:
        """See `PagedBackend.paged`."""
        rows, tokens, heads = q.shape[:3]
        if tokens != 1:
            part = over(_other(q), q, view)
            return part.out.view_as(q), part.lse.view(rows, tokens, heads).transpose(1, 2)
        out = torch.empty_like(q)
        lse = torch.empty((rows, heads), dtype=torch.float32, device=q.device)
        combine(*self.unmerged(q[:, 0], view), out[:, 0], lse)
        return out, lse[:, :, None]

    def unmerged(self, q: Tensor, view: KVView) -> Unmerged:
        """See `ItemBackend.unmerged`."""
        kernel = self.kernel(q, view)
        items = self.items(view.rows, kernel)
        partials = self.scratch(items.num_items, *q.shape[1:], q.device)
        kernel(q, (view.k_pages, view.v_pages), view.rows.table, items, *partials)
        return Unmerged(*partials, items.first)

    def kernel(self, q: Tensor, view: KVView) -> Decode:
        """The kernel for queries q [..., H, D] over the view's K KV heads."""
        heads, dim = q.shape[-2:]
        kv_heads = view.k_pages.shape[-2]
        key = (heads, kv_heads, dim, q.dtype, q.device)
        if key not in self._kernels:
            self._kernels[key] = decode(
                num_heads=heads, kv_heads=kv_heads, dim=dim, dtype=q.dtype, device=q.device
            )
        return self._kernels[key]

    def splitter(
        self,
        rows: int,
        *,
        num_heads: int,
        kv_heads: int,
        dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Splitter:
        """Work items for a frame of `rows` rows."""
        shape = {"num_heads": num_heads, "kv_heads": kv_heads, "dim": dim}
        return Splitter(decode(**shape, dtype=dtype, device=device), rows)

    def items(self, rows: Rows | FixedRows, kernel: Decode) -> SplitPlan:
        """The rows' own work items, or new ones on their device."""
        own = getattr(rows, "splits", None)
        if own is not None:
            return own
        step = rows.now if isinstance(rows, FixedRows) else rows
        if self._planned and self._planned[0] is step and self._planned[1] is kernel:
            return self._planned[2]
        plan = kernel.plan(rows.lengths, capacity=kernel.capacity(len(rows.lengths)))
        packed = torch.from_numpy(plan.packed).to(rows.seqlens.device)
        items = SplitPlan(packed=packed, num_items=plan.num_items)
        self._planned = (step, kernel, items)
        return items

    def scratch(self, items: int, heads: int, dim: int, device: torch.device) -> tuple:
        """Partials of the items, fp32: out [I, H, D], lse [I, H]. One per stream, overwritten."""
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        key = (items, heads, dim, device, stream)
        if key not in self._scratch:
            self._scratch[key] = (
                torch.empty((items, heads, dim), dtype=torch.float32, device=device),
                torch.empty((items, heads), dtype=torch.float32, device=device),
            )
        return self._scratch[key]


class Splitter:
    """See `fapool.runtime.frames.Splitter`.

    Items end at whole tiles or at the row's end, so that a plan lasts until a row begins a tile:
    till then only the last items of the rows grow.
    """

    def __init__(self, kernel: Decode, rows: int) -> None:
        self._kernel, self._items = kernel, kernel.capacity(rows)
        self.size = packed_size(rows, self._items)
        self._tiles = np.full(rows, -1)
        self._plan: SplitPlan | None = None
        self._last = np.empty(0, dtype=np.int64)  # last item of every row that has one

    def cut(self, lengths: np.ndarray, numbers: np.ndarray) -> None:
        """Write the items of rows with these lengths [B] to `numbers` [size]."""
        tiles = -(-lengths // self._kernel.tile)
        full = lengths > 0
        if not np.array_equal(tiles, self._tiles):
            self._plan = self._kernel.plan(lengths, capacity=self._items)
            self._tiles, self._last = tiles, self._plan.first[1:][full] - 1
        else:
            self._plan.stop[self._last] = lengths[full]
        numbers[:] = self._plan.packed

    def items(self, numbers: Tensor) -> SplitPlan:
        """The items in `numbers`, on their device."""
        return SplitPlan(packed=numbers, num_items=self._items)


def _other(q: Tensor) -> Backend:
    """A kernel for many queries; `auto` does not come here, prefill has better ones."""
    dense = Aten()
    where = {"device": q.device, "dtype": q.dtype, "head_dim": q.shape[-1]}
    return Reference() if dense.unfit(**where) else dense
