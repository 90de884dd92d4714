"""Times on an NVIDIA GPU, beside PyTorch's where it is installed: `python benchmarks/gpu.py`.

Each line: a name, our milliseconds and rate, PyTorch's time divided by ours. Times are between two events around many runs.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import treadle
from treadle.runtime import engine


def milliseconds(module: Any, run: Callable[[], Any], times: int = 50) -> float:
    """Of one run, after a few that compile and warm up."""
    for _ in range(5):
        keep = run()
    module.cuda.synchronize()
    begin, end = module.cuda.Event(enable_timing=True), module.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(times):
        keep = run()
        if module is treadle:
            engine.flush("benchmark")
    end.record()
    module.cuda.synchronize()
    del keep
    return float(begin.elapsed_time(end)) / times


def cases(m: Any) -> list[tuple[str, Callable[[], Any], float, str]]:
    """(name, function, amount of work, unit) on tensors of the module."""
    f = m.nn.functional
    x, y = m.randn(4096, 4096, device="cuda"), m.randn(4096, 4096, device="cuda")
    w, bias, scale = m.randn(4096, device="cuda"), m.randn(4096, device="cuda"), 4096 * 4096 * 4 / 1e9
    half, other = x.to(m.bfloat16), y.to(m.bfloat16)
    table, index = m.randn(50_000, 512, device="cuda"), m.randint(0, 50_000, (8192,), device="cuda")
    return [
        ("add", lambda: x + y, 3 * scale, "GB/s"), ("gelu(x * y + 1)", lambda: f.gelu(x * y + 1), 3 * scale, "GB/s"),
        ("transposed copy", lambda: x.t().contiguous(), 2 * scale, "GB/s"), ("sum", lambda: x.sum(), scale, "GB/s"),
        ("sum over rows", lambda: x.sum(0), scale, "GB/s"), ("softmax", lambda: x.softmax(-1), 2 * scale, "GB/s"),
        ("layer_norm", lambda: f.layer_norm(x, (4096,), w, bias), 2 * scale, "GB/s"), ("cumsum", lambda: x.cumsum(1), 2 * scale, "GB/s"),
        ("embedding", lambda: table[index], 2 * 8192 * 512 * 4 / 1e9, "GB/s"),
        ("matmul float32", lambda: x @ y, 2 * 4096**3 / 1e12, "TFLOP/s"),
        ("linear + relu", lambda: f.relu(f.linear(x, y, w)), 2 * 4096**3 / 1e12, "TFLOP/s"),
        ("matmul bfloat16", lambda: half @ other.t(), 2 * 4096**3 / 1e12, "TFLOP/s")]


def main() -> None:
    if not treadle.cuda.is_available():
        raise SystemExit("needs an NVIDIA GPU, its driver and pip install 'treadle[cuda]'")
    try:
        import torch
    except ImportError:
        torch = None  # type: ignore[assignment]
    print(treadle.cuda.get_device_name())
    theirs = {name: milliseconds(torch, run) for name, run, *_ in cases(torch)} if torch is not None and torch.cuda.is_available() else {}
    for name, run, work, unit in cases(treadle):
        ms = milliseconds(treadle, run)
        ratio = f"{theirs[name] / ms:6.2f} x PyTorch" if name in theirs else ""
        print(f"{name:20} {ms:9.4f} ms {work / ms * 1e3:9.1f} {unit:8} {ratio}")


if __name__ == "__main__":
    main()
