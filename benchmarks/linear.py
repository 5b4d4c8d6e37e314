"""Products of a decode step's few rows with the model's weights: ours and cuBLAS, on one GPU.

    python benchmarks/linear.py --out results

bf16, the shapes of a model with 4096 hidden, 32 heads x 128 and 16384 FFN, whole and in slices of
2 and 4. `alone` is a product among products, `step` one that takes turns with the norm that it
depends on, the norm's time included; medians of replays of a CUDA graph of 20 or more, over
weights that together are larger than the L2. Where `form` is empty the choice is cuBLAS itself.
Each form is held against fp32 first. Writes `linear.json`; TB/s are of the weights, `share` of the
best that a kernel was seen to read on an H200, 4.45 TB/s.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from fapool.runtime.elementwise import TorchOps, TritonOps
from fapool.runtime.linear import form_of

BANDWIDTH = 4.45e12  # bytes/s
TOKENS = (1, 2, 4, 8, 16, 32, 64)
SHAPES = {  # outputs, inputs
    "qkv": (12288, 4096),
    "qkv/2": (6144, 4096),
    "qkv/4": (3072, 4096),
    "qkv, 1 KV head": (4352, 4096),
    "output": (4096, 4096),
    "output/2": (4096, 2048),
    "output/4": (4096, 1024),
    "ffn in": (16384, 4096),
    "ffn in/2": (8192, 4096),
    "ffn out": (4096, 16384),
    "ffn out/2": (4096, 8192),
    "logits": (32000, 4096),
    "logits/2": (16000, 4096),
    "logits/4": (8000, 4096),
}
ROTATED_BYTES = 256 << 20
REPEATS = 7
ERROR = 4e-3


def time_us(calls: list[Callable[[], object]]) -> float:
    """Of one call, in a graph of all; the median of replays."""
    calls[0]()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    borders = [torch.cuda.Event(enable_timing=True) for _ in range(2 * REPEATS)]
    for start, end in zip(borders[::2], borders[1::2], strict=True):
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    graph.reset()
    pairs = zip(borders[::2], borders[1::2], strict=True)
    return median(a.elapsed_time(b) for a, b in pairs) * 1e3 / len(calls)


def row(name: str, tokens: int, pool: Tensor) -> dict:
    """One line of the table."""
    outputs, inputs = SHAPES[name]
    size = outputs * inputs
    launches = max(20, -(-ROTATED_BYTES // (2 * size)))
    copies = min(launches, len(pool) // size)
    weights = [pool[i * size :][:size].view(outputs, inputs) for i in range(copies)]
    weights = [weights[i % copies] for i in range(launches)]
    x = torch.randn(tokens, inputs, device="cuda").bfloat16()
    gain = torch.ones(inputs, device="cuda", dtype=x.dtype)
    ours, blas = TritonOps(x.dtype), TorchOps(x.dtype)
    expected = x.float() @ weights[0].float().T
    error = float((ours.linear(x, weights[0]).float() - expected).norm() / expected.norm())
    if not error < ERROR:
        raise SystemExit(f"{name}, {tokens} tokens: error {error:.1e}")
    form = form_of(x, weights[0])
    found = {"name": name, "tokens": tokens, "outputs": outputs, "inputs": inputs, "error": error}
    found |= {"form": form and asdict(form), "floor_us": 2e6 * size / BANDWIDTH}
    for who, ops in (("blas", blas), ("ours", ours)):
        alone = [lambda w=w, ops=ops: ops.linear(x, w) for w in weights]
        step = [
            lambda w=w, ops=ops: ops.linear(ours.add_norm(x, x, gain, 1e-6)[1], w) for w in weights
        ]
        found |= {f"{who}_alone_us": time_us(alone), f"{who}_step_us": time_us(step)}
    return found


def line(r: dict) -> str:
    """As printed."""
    times = "".join(
        f"{r[f'{who}_{what}_us']:>9.1f}" for what in ("alone", "step") for who in ("blas", "ours")
    )
    share = r["floor_us"] / r["ours_alone_us"]
    form = r["form"] or {}
    cut = ",".join(str(form[k]) for k in ("rows", "depth", "stages", "warps", "parts") if form)
    return (
        f"{r['name']:16}{r['tokens']:>4}{r['floor_us']:>8.1f}{times}{share * 4.45:>7.2f}"
        f"{share:>7.2f}  {cut}"
    )


def main() -> None:
    """Measure all, write the JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS)
    options = parser.parse_args()
    torch.manual_seed(0)
    pool = torch.empty(1 << 30, dtype=torch.bfloat16, device="cuda").normal_(std=0.02)
    found = [row(name, tokens, pool) for name in SHAPES for tokens in options.tokens]
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "rows": [
            {k: round(v, 5) if isinstance(v, float) else v for k, v in r.items()} for r in found
        ],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "linear.json").write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"{'':16}{'T':>4}{'floor':>8}{'alone, us':>18}{'in a step, us':>18}{'TB/s':>7}{'share':>7}"
    )
    print(f"{'':28}" + f"{'cuBLAS':>9}{'ours':>9}" * 2)
    print("\n".join(line(r) for r in found))


if __name__ == "__main__":
    main()
