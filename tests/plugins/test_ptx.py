"""Edits of PTX text."""

from __future__ import annotations

import pytest

from omnigen2_rt.plugins.omni_rope.ptx import launchable, ptx_parameters, renamed, without_debug_information

KERNEL = """\
.version 8.0
.target sm_80
.visible .entry scale(
\t.param .u64 .ptr .global .align 1 scale_param_0,
\t.param .u32 scale_param_1,
\t.param .u64 .ptr .global .align 1 scale_param_2,
\t.param .u64 .ptr .global .align 1 scale_param_3
)
.reqntid 128
{
\t.loc\t1 5 0                          // scale.py:5:0
\tld.param.b64 \t%rd1, [scale_param_0];
\tld.param.b32 \t%r1, [scale_param_1];
\tld.param.b64 \t%rd2, [scale_param_2];
\tret;
}
\t.file\t1 "/home/someone/scale.py"
\t.section\t.debug_abbrev
\t{
.b8 1
\t}
\t.section\t.debug_info
\t{
.b8 2
\t}
\t.section\t.debug_macinfo\t{\t}
"""

EXPECTED = ("u64", "u32", "u64")


def test_parameters_are_listed_in_order() -> None:
    assert ptx_parameters(KERNEL) == ("u64", "u32", "u64", "u64")


def test_unused_hidden_parameter_is_removed() -> None:
    trimmed = launchable(KERNEL, EXPECTED)
    assert ptx_parameters(trimmed) == EXPECTED
    assert "scale_param_3" not in trimmed
    assert trimmed.replace("\n)", ",\n\t.param .u64 .ptr .global .align 1 scale_param_3\n)", 1) == KERNEL


def test_used_hidden_parameter_is_refused() -> None:
    using = KERNEL.replace("\tret;", "\tld.param.b64 \t%rd3, [scale_param_3];\n\tret;")
    with pytest.raises(ValueError, match="scale_param_3.* scratch memory that only Triton passes"):
        launchable(using, EXPECTED)


def test_kernel_without_hidden_parameters_stays_as_it_is() -> None:
    assert launchable(KERNEL, (*EXPECTED, "u64")) == KERNEL


@pytest.mark.parametrize(
    "expected", [("u64", "u64", "u32"), ("u64", "u32", "u64", "u64", "u64")], ids=["order", "more"]
)
def test_parameters_other_than_expected_are_refused(expected: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="would be launched with"):
        launchable(KERNEL, expected)


def test_text_with_two_kernels_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one kernel in the PTX, found 2"):
        ptx_parameters(KERNEL + KERNEL)


def test_renamed_kernel_renames_its_parameters() -> None:
    other = renamed(KERNEL, "scale_fast")
    assert ".entry scale_fast(" in other and "[scale_fast_param_1]" in other
    assert ptx_parameters(other) == ptx_parameters(KERNEL)


def test_debug_information_is_removed() -> None:
    bare = without_debug_information(KERNEL)
    assert bare.endswith("\tret;\n}\n\n\n\n") or bare.rstrip().endswith("\tret;\n}")
    assert ".section" not in bare and ".loc" not in bare and "someone" not in bare
