"""Omni-RoPE as a TensorRT plugin whose kernel is compiled ahead of time into the engine.

Knows TensorRT's Quickly Deployable Plugins. Building an engine needs `tensorrt` and `triton`; running it needs neither plugin
nor Triton, because the engine holds the PTX. Call `register()` before the ONNX parser reads the graph.

TensorRT reads the annotations below when it registers the functions, so this file must not import `annotations` from
`__future__`. Epsilon is annotated as an array of one float32, which the ONNX parser passes for a float attribute: declared
as a float, TensorRT 10.15 and 11.0 (both tried) convert it in a way that numpy 2.4 forbids.
"""

import numpy as np
import numpy.typing as npt
import tensorrt as trt
import tensorrt.plugin as trtp

from . import DOMAIN, OP_TYPE, QUALIFIED_NAME
from .kernel import TACTICS, Kernel, compile_ptx

PTX_SM = 80
"""The oldest architecture with bfloat16. The driver compiles PTX for the GPU at hand, and the kernel is bound by memory, not
by instructions: one PTX serves every GPU from Ampere on, also in an engine for several GPUs."""

_X = "FP32|FP16|BF16"
_WEIGHT = "FP32*FP16*BF16"


def is_registered() -> bool:
    """Whether this process already has the plugin."""
    return hasattr(getattr(trtp.op, DOMAIN, None), OP_TYPE)


def register() -> None:
    """Add the operator to TensorRT's plugin registry. Calling it again does nothing."""
    if is_registered():
        return
    trtp.register(QUALIFIED_NAME)(describe_output)
    trtp.autotune(QUALIFIED_NAME)(list_tactics)
    trtp.aot_impl(QUALIFIED_NAME)(compile_for_engine)


def describe_output(
    x: trtp.TensorDesc,
    weight: trtp.TensorDesc,
    cos: trtp.TensorDesc,
    sin: trtp.TensorDesc,
    epsilon: npt.NDArray[np.float32],
) -> trtp.TensorDesc:
    """The output's shape (B, H, S, Dh) and type, from x (B, S, H, Dh)."""
    batch, tokens, heads, width = x.shape_expr
    return trtp.from_shape_expr((batch, heads, tokens, width), x.dtype)


def list_tactics(
    x: trtp.TensorDesc,
    weight: trtp.TensorDesc,
    cos: trtp.TensorDesc,
    sin: trtp.TensorDesc,
    outputs: tuple[trtp.TensorDesc],
) -> list[trtp.AutoTuneCombination]:
    """The types that the kernel supports, and the tactics that TensorRT may time: tactic n is `TACTICS[n - 1]`."""
    tactics = list(range(1, len(TACTICS) + 1))
    return [trtp.AutoTuneCombination(f"{_X}, {_WEIGHT}, FP32, FP32, {_X}", "LINEAR", tactics)]


def compile_for_engine(
    x: trtp.TensorDesc,
    weight: trtp.TensorDesc,
    cos: trtp.TensorDesc,
    sin: trtp.TensorDesc,
    epsilon: npt.NDArray[np.float32],
    outputs: tuple[trtp.TensorDesc],
    tactic: int,
) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymExprs]:
    """The kernel's name, PTX, launch parameters and further arguments, for these types, heads and head width. Batch and tokens
    are symbols that TensorRT evaluates at each launch."""
    kernel = _compile(x, weight, float(epsilon[0]), tactic)
    batch, tokens, _, _ = x.shape_expr

    launch = trtp.KernelLaunchParams()
    launch.grid_x = trtp.cdiv(tokens, kernel.rows)
    launch.grid_y = batch
    launch.block_x = kernel.block_threads
    launch.shared_mem = kernel.shared_bytes

    extra_arguments = trtp.SymIntExprs(1)
    extra_arguments[0] = trtp.SymInt32(tokens)
    return kernel.name, kernel.ptx, launch, extra_arguments


def _compile(x: trtp.TensorDesc, weight: trtp.TensorDesc, epsilon: float, tactic: int) -> Kernel:
    _, _, heads, width = x.shape
    if heads < 1 or width < 1:
        raise ValueError(
            f"{QUALIFIED_NAME} needs a fixed number and width of heads, but x is {tuple(x.shape)}: make both static"
        )
    return compile_ptx(
        dtype=_dtype(x),
        weight_dtype=_dtype(weight),
        heads=heads,
        width=width,
        epsilon=epsilon,
        sm=PTX_SM,
        tactic=TACTICS[tactic - 1],
    )


def _dtype(tensor: trtp.TensorDesc) -> str:
    names = {trt.float32: "fp32", trt.float16: "fp16", trt.bfloat16: "bf16"}
    if tensor.dtype not in names:
        raise ValueError(f"{QUALIFIED_NAME} takes float32, float16 or bfloat16, not {tensor.dtype}")
    return names[tensor.dtype]
