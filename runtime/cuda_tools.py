"""NVIDIA's assembler and disassembler, where they are installed: what became of a kernel's PTX."""
from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple


class Usage(NamedTuple):
    """What an assembled kernel takes: registers, bytes of stack, bytes of spilled registers (stored and loaded)."""

    registers: int
    stack: int
    spilled: int


def assemble(ptx: str, architecture: str) -> Usage:
    """Assemble with nvJitLink (wheel nvidia-nvjitlink); no driver is needed. RuntimeError with its words when it refuses the text."""
    from cuda.bindings import nvjitlink
    handle: Any = nvjitlink.create(2, [f"-arch={architecture}", "-verbose"])
    try:
        data = ptx.encode()
        try:
            nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), "kernel")
            nvjitlink.complete(handle)
        except nvjitlink.nvJitLinkError as error:
            raise RuntimeError(f"the assembler refuses the kernel for {architecture}: {_log(nvjitlink, handle, 'error')}") from error
        text = _log(nvjitlink, handle, "info")
    finally:
        nvjitlink.destroy(handle)
    functions = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text)
    registers = [int(n) for n in re.findall(r"[Uu]sed (\d+) registers", text)]
    return Usage(max(registers, default=0), max((int(s) for s, *_ in functions), default=0),
                 sum(int(stores) + int(loads) for _, stores, loads in functions))


def _log(nvjitlink: Any, handle: Any, kind: str) -> str:
    size = getattr(nvjitlink, f"get_{kind}_log_size")(handle)
    log = bytearray(size)
    if size:
        getattr(nvjitlink, f"get_{kind}_log")(handle, log)
    return log.split(b"\0")[0].decode(errors="replace")


def disassemble(ptx: str, architecture: str) -> str:
    """The machine code of a kernel as text. RuntimeError when ptxas or nvdisasm is not installed."""
    tools = {name: shutil.which(name) for name in ("ptxas", "nvdisasm")}
    missing = [name for name, path in tools.items() if path is None]
    if missing:
        raise RuntimeError(f"sass needs {' and '.join(missing)} on PATH: they come with NVIDIA's CUDA toolkit or the wheels "
                           "nvidia-cuda-nvcc and nvidia-cuda-nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        subprocess.run([str(tools["ptxas"]), f"-arch={architecture}", str(source), "-o", str(binary)], check=True, capture_output=True)
        return subprocess.run([str(tools["nvdisasm"]), str(binary)], check=True, capture_output=True, text=True).stdout
