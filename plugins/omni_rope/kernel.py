"""Omni-RoPE as one GPU kernel in Triton: reads each head once, normalizes and rotates it, and writes heads before tokens.

Knows tensors and GPU architectures, nothing of TensorRT or ONNX. Importing it needs Triton. `compile_ptx` needs neither
a GPU nor torch. With TRITON_INTERPRET=1 set before the import, `omni_rope` runs on CPU tensors, as the tests do.

A program processes a few neighbouring tokens of one image with all their heads, so it reads a row of the position tables
once for all heads. It loads whole heads, so that loads and stores are contiguous and 16 bytes wide, and then splits them
into their interleaved pairs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .ptx import launchable, renamed, without_debug_information

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Tactic:
    """A launch configuration. Every tactic gives the same result; the fastest depends on the GPU and the shapes.

    rows: the tokens of a program, a power of two.
    warps: the warps of a program.
    """

    rows: int
    warps: int


TACTICS = (Tactic(rows=2, warps=8), Tactic(rows=4, warps=16), Tactic(rows=1, warps=8), Tactic(rows=1, warps=4))
"""The tactics worth timing; the first is the default. With fewer warps a token, Triton moves heads and angles through
shared memory, at about thirty barriers a program."""

DTYPES = ("fp32", "fp16", "bf16")

_ARGUMENTS = ("x", "weight", "cos", "sin", "tokens", "out")
_PARAMETERS = ("u64", "u64", "u64", "u64", "u32", "u64")
_LARGEST_SHARED_BYTES = 48 * 1024  # more needs an opt-in that only Triton's launcher makes
_OLDEST_PTX_VERSION = {80: 80, 86: 80, 87: 80, 89: 80, 90: 80, 100: 86, 120: 87}  # for older drivers


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A compiled kernel and the facts that a launcher needs.

    Arguments, in order: x, weight, cos, sin (pointers), tokens (int32), out (pointer). Pointers are 16-byte aligned.
    Grid: (ceil(tokens / rows), batch). Block: (block_threads).
    """

    name: str
    ptx: str
    block_threads: int
    shared_bytes: int
    rows: int


@triton.jit
def omni_rope_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    tokens: tl.tensor,
    out: tl.tensor,
    EPSILON: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED_HEADS: tl.constexpr,
    PADDED_WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    PAIRS: tl.constexpr = PADDED_WIDTH // 2
    image = tl.program_id(1).to(tl.int64)  # x may hold more than 2**31 elements
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None, None]
    head = tl.arange(0, PADDED_HEADS)[None, :, None]
    channel = tl.arange(0, PADDED_WIDTH)[None, None, :]
    pair = tl.arange(0, PAIRS)[None, None, :]

    source = ((image * tokens + token) * HEADS + head) * WIDTH + channel
    target = ((image * HEADS + head) * tokens + token) * WIDTH + channel
    is_inside = (token < tokens) & (head < HEADS) & (channel < WIDTH)
    angle = token * (WIDTH // 2) + pair
    is_angle = (token < tokens) & (pair < WIDTH // 2)

    heads = tl.load(x + source, mask=is_inside, other=0.0).to(tl.float32)
    gain = tl.load(weight + channel, mask=channel < WIDTH, other=0.0).to(tl.float32)
    cosine = tl.load(cos + angle, mask=is_angle, other=0.0)
    sine = tl.load(sin + angle, mask=is_angle, other=0.0)

    even, odd = tl.split(tl.reshape(heads, (ROWS, PADDED_HEADS, PAIRS, 2)))
    even_gain, odd_gain = tl.split(tl.reshape(gain, (1, 1, PAIRS, 2)))
    mean_square = tl.sum(even * even + odd * odd, axis=2, keep_dims=True) / WIDTH
    scale = tl.rsqrt(mean_square + EPSILON)
    even = even * scale * even_gain
    odd = odd * scale * odd_gain

    pairs = tl.join(even * cosine - odd * sine, even * sine + odd * cosine)
    rotated = tl.reshape(pairs, (ROWS, PADDED_HEADS, PADDED_WIDTH))
    tl.store(out + target, rotated.to(out.dtype.element_ty), mask=is_inside)


def omni_rope(
    x: torch.Tensor,
    weight: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    epsilon: float,
    *,
    tactic: Tactic = TACTICS[0],
) -> torch.Tensor:
    """Launch the kernel on torch tensors of one device.

    x: (B, S, H, Dh) float32, float16 or bfloat16; weight: (Dh,) of any of these; cos, sin: (S, Dh/2) float32.
    Returns (B, H, S, Dh) of x's dtype. Raises ValueError where a shape doesn't fit or memory isn't contiguous.
    """
    batch, tokens, heads, width = x.shape
    table = (tokens, width // 2)
    if width % 2 or weight.shape != (width,) or cos.shape != table or sin.shape != table:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (x, weight, cos, sin))
        raise ValueError(f"got shapes {shapes}: needed are (B, S, H, Dh), (Dh,), (S, Dh/2), (S, Dh/2) with an even Dh")
    if not all(tensor.is_contiguous() for tensor in (x, weight, cos, sin)):
        raise ValueError(
            "the kernel reads x, weight, cos and sin as contiguous memory: call .contiguous() on them first"
        )
    out = x.new_empty((batch, heads, tokens, width))
    grid = (triton.cdiv(tokens, tactic.rows), batch)
    constants = _constants(heads=heads, width=width, epsilon=epsilon, tactic=tactic)
    omni_rope_kernel[grid](x, weight, cos, sin, tokens, out, **constants, **_options(tactic))
    return out


def compile_ptx(
    *,
    dtype: str,
    heads: int,
    width: int,
    epsilon: float,
    sm: int,
    tactic: Tactic = TACTICS[0],
    weight_dtype: str | None = None,
) -> Kernel:
    """Compile the kernel for a GPU architecture, on any machine. Heads and width become constants; tokens and batch
    stay dynamic.

    dtype: of x and the output, "fp32", "fp16" or "bf16".
    heads, width: H and Dh.
    sm: the architecture; 80 is compute capability 8.0.
    weight_dtype: None for that of x.
    Raises ValueError for an odd width, an unknown dtype, or a kernel that only Triton's launcher could start.
    """
    weight_dtype = weight_dtype or dtype
    if width < 2 or width % 2:
        raise ValueError(f"width={width}: the rotation turns pairs of channels, so the head width must be even")
    if unknown := {dtype, weight_dtype} - {*DTYPES}:
        raise ValueError(f"dtype {unknown.pop()!r} is none of {', '.join(DTYPES)}")
    source = _source(dtype, weight_dtype, _constants(heads=heads, width=width, epsilon=epsilon, tactic=tactic))
    options = _options(tactic) | {"ptx_version": _OLDEST_PTX_VERSION.get(sm)}
    compiled = triton.compile(source, GPUTarget("cuda", sm, 32), options)
    shared_bytes: int = compiled.metadata.shared
    if shared_bytes > _LARGEST_SHARED_BYTES:
        raise ValueError(f"{tactic} takes {shared_bytes} bytes of shared memory, more than {_LARGEST_SHARED_BYTES}")
    name = _name(dtype, weight_dtype, heads=heads, width=width, epsilon=epsilon, tactic=tactic)
    ptx = launchable(without_debug_information(compiled.asm["ptx"]), _PARAMETERS)
    return Kernel(
        name=name,
        ptx=renamed(ptx, name),
        block_threads=tactic.warps * 32,
        shared_bytes=shared_bytes,
        rows=tactic.rows,
    )


def _constants(*, heads: int, width: int, epsilon: float, tactic: Tactic) -> dict[str, int | float]:
    return {
        "EPSILON": epsilon,
        "HEADS": heads,
        "WIDTH": width,
        "PADDED_HEADS": triton.next_power_of_2(heads),
        "PADDED_WIDTH": triton.next_power_of_2(width),
        "ROWS": tactic.rows,
    }


def _options(tactic: Tactic) -> dict[str, int | None]:
    # Fused multiply-add was Triton's default until 3.9, which warns that 3.10 changes it.
    return {"num_warps": tactic.warps, "enable_fp_fusion": True}


def _source(dtype: str, weight_dtype: str, constants: dict[str, int | float]) -> ASTSource:
    types = (f"*{dtype}", f"*{weight_dtype}", "*fp32", "*fp32", "i32", f"*{dtype}")
    signature = dict(zip(_ARGUMENTS, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    aligned = {(index,): [["tt.divisibility", 16]] for index, kind in enumerate(types) if kind.startswith("*")}
    return ASTSource(fn=omni_rope_kernel, signature=signature, constexprs=constants, attrs=aligned)


def _name(dtype: str, weight_dtype: str, *, heads: int, width: int, epsilon: float, tactic: Tactic) -> str:
    """A name that differs between any two kernels: an engine tells them apart by name alone."""
    shape = f"{heads}x{width}_rows{tactic.rows}_warps{tactic.warps}"
    return f"omni_rope_{dtype}_{weight_dtype}_{shape}_eps{struct.pack('>f', epsilon).hex()}"
