"""Compile a launch ahead of time for a GPU that is not there, and read what came out."""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from npas.errors import NpasError
from npas.kernels.launch import Launch

#: Target -> backend, architecture, threads of a warp.
TARGETS: Mapping[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}

_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int64: "i64",
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a kernel became for one target.

    Attributes:
        kernel: its name.
        target: a key of `TARGETS`.
        registers: vector registers of a thread.
        spills: registers that did not fit, in bytes of stack (CUDA) or registers (HIP).
        shared_bytes: shared memory of a program.
        load_bits: widest load from memory.
        store_bits: widest store to memory.
    """

    kernel: str
    target: str
    registers: int
    spills: int
    shared_bytes: int
    load_bits: int
    store_bits: int


def compile_ahead(launch: Launch, target: str) -> Compiled:
    """Compile a launch for a target.

    Pointers count as aligned to 16 bytes and integers that 16 divides as such, as at run time.

    Args:
        launch: its tensors may be on any device, meta included.
        target: a key of `TARGETS`.

    Raises:
        NpasError: if Triton was imported with its interpreter on, which cannot compile.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile as triton_compile
    from triton.runtime.jit import JITFunction

    if not isinstance(launch.kernel, JITFunction):
        raise NpasError(
            "kernels cannot be compiled in Triton's interpreter; unset TRITON_INTERPRET"
        )
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    constants: dict[str, Any] = {}
    for index, name in enumerate(launch.kernel.arg_names):
        if name in launch.constants:
            signature[name], constants[name] = "constexpr", launch.constants[name]
            continue
        value = launch.arguments[name]
        if isinstance(value, torch.Tensor):
            signature[name], aligned = "*" + _TYPES[value.dtype], True
        elif value == 1:
            signature[name], constants[name] = "constexpr", 1
            continue
        else:
            signature[name] = "i64" if value >= 2**31 else "i32"
            aligned = value % 16 == 0
        if aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    backend, architecture, threads = TARGETS[target]
    found = triton_compile(
        source, GPUTarget(backend, architecture, threads), {"num_warps": launch.warps}
    )
    read = _read_cuda if backend == "cuda" else _read_hip
    registers, spills, load_bits, store_bits = read(found)
    return Compiled(
        launch.name, target, registers, spills, found.metadata.shared, load_bits, store_bits
    )


def _read_cuda(found: Any) -> tuple[int, int, int, int]:
    text = found.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(found.asm["cubin"])
        file.flush()
        usage = _run_cuobjdump("-res-usage", file.name)
    registers = re.search(r"REG:(\d+)", usage)
    stack = re.search(r"STACK:(\d+)", usage)
    local = re.search(r"LOCAL:(\d+)", usage)
    if not (registers and stack and local):
        raise NpasError(f"cuobjdump says nothing of registers and stack: {usage}")
    return (
        int(registers[1]),
        int(stack[1]) + int(local[1]),
        _widest_ptx(text, "ld.global"),
        _widest_ptx(text, "st.global"),
    )


def _run_cuobjdump(*arguments: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    done = subprocess.run([str(tool), *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _widest_ptx(text: str, instruction: str) -> int:
    pattern = re.escape(instruction) + r"(?:\.[a-z_:0-9]+?)*?(?:\.v(\d))?\.[buf](\d+)\b"
    return max((int(n or 1) * int(bits) for n, bits in re.findall(pattern, text)), default=0)


def _read_hip(found: Any) -> tuple[int, int, int, int]:
    text = found.asm["amdgcn"]

    def count(key: str) -> int:
        return max(int(value) for value in re.findall(rf"\.{key}:\s+(\d+)", text))

    def widest(what: str) -> int:
        pattern = rf"(?:global|buffer)_{what}_(?:dword(?:x(\d))?|b(\d+)|[us]?byte|[us]?short)"
        found = re.findall(pattern, text)
        return max((int(b) if b else 32 * int(n or 1) for n, b in found), default=0)

    spills = count("vgpr_spill_count") + count("sgpr_spill_count")
    return count("vgpr_count"), spills, widest("load"), widest("store")

