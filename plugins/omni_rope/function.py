"""Omni-RoPE as an ONNX function of standard operators, for runtimes without a kernel for it.

Knows ONNX's operators and nothing of runtimes, GPUs or where the node comes from.

Three choices follow from the operators:
- RotaryEmbedding requires tables of x's type and of shape (B, S, Dh/2), so everything inside is float32 and the tables are
  expanded over the batch.
- RMSNormalization comes before the transpose, where a head is contiguous in memory.
- The function's opset is 23, the first with both operators.
"""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir

from . import DOMAIN, OP_TYPE

OPSET = 23

_TEXT = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
{OP_TYPE} <epsilon> (x, weight, cos, sin) => (rotated)
{{
    x_float = Cast <to = 1> (x)
    weight_float = Cast <to = 1> (weight)
    normalized = RMSNormalization <axis = -1, epsilon: float = @epsilon> (x_float, weight_float)
    heads_first = Transpose <perm = [0, 2, 1, 3]> (normalized)
    batch = Shape <start = 0, end = 1> (x)
    table = Shape (cos)
    table_of_each = Concat <axis = 0> (batch, table)
    cos_of_each = Expand (cos, table_of_each)
    sin_of_each = Expand (sin, table_of_each)
    rotated_float = RotaryEmbedding <interleaved = 1> (heads_first, cos_of_each, sin_of_each)
    rotated = CastLike (rotated_float, x)
}}
"""


def omni_rope_function_proto() -> onnx.FunctionProto:
    """The function for `ModelProto.functions`. The model must import opset 23 and the operator's domain."""
    return onnx.parser.parse_function(_TEXT)


def omni_rope_function() -> ir.Function:
    """The same function for `ir.Model.functions`: `model.functions[function.identifier()] = function`."""
    return ir.serde.deserialize_function(omni_rope_function_proto())
