"""What the emitters need to know about a CPU: its vector width and how many vector registers it has."""
from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass

import llvmlite.binding as llvm

from treadle.codegen.llvm_text import scalar_bits


@dataclass(frozen=True)
class Target:
    """A CPU to generate code for. `features` is LLVM's comma-separated list (`+avx2,-sse4a,...`)."""

    triple: str
    cpu: str
    features: str
    vector_bits: int
    registers: int

    @property
    def arch(self) -> str:
        """`x86_64`, `aarch64`, ...: the first part of the triple (`arm64` is spelt `aarch64`)."""
        name = self.triple.split("-", 1)[0]
        return {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)

    def has(self, feature: str) -> bool:
        """`host().has("avx512f")`: is the feature switched on?"""
        return f"+{feature}" in self.features.split(",")

    def lanes(self, scalar: str) -> int:
        """Elements of the LLVM scalar type in one vector register: `lanes("float")` is 16 on AVX-512."""
        return self.vector_bits // scalar_bits(scalar)


def describe(triple: str, cpu: str, features: str) -> Target:
    """The target with its widths derived from the feature list (SSE and NEON: 128 bits)."""
    on = set(features.split(","))
    if "+avx512f" in on:
        # Some AVX-512 models are tuned to split 512-bit vectors; our kernels choose their own widths.
        return Target(triple, cpu, features + ",-prefer-256-bit", 512, 32)
    if "+avx2" in on and "+fma" in on:
        return Target(triple, cpu, features, 256, 16)
    return Target(triple, cpu, features, 128, 16 if triple.startswith("x86") else 32)


@functools.cache
def host() -> Target:
    """The CPU this process runs on."""
    features = llvm.get_host_cpu_features().flatten()
    return describe(llvm.get_process_triple(), llvm.get_host_cpu_name(), features)


_SYS_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@functools.cache
def matrix_unit() -> bool:
    """Whether this process may multiply bfloat16 tiles (Intel AMX). Linux grants that to a process that asks, once."""
    target = host()
    if target.arch != "x86_64" or target.vector_bits != 512 or not target.has("amx-bf16") or not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None).syscall(_SYS_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0
