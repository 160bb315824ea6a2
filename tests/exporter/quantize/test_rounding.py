"""The rounding by itself: what the codes are, how far they lie from the weight, and that searching never makes it worse."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from omnigen2_rt.exporter.quantize.rounding import (
    Floats,
    Rounded,
    pack_4_bits,
    padded,
    round_by_columns,
    round_columns,
    round_in_blocks,
    round_to_4_bits,
    round_to_fp8,
    smoothing,
)

BLOCK = 32


def weights(kind: str) -> Floats:
    """(96, 20)"""
    rng = np.random.default_rng(5)
    arrays = {
        "normal": rng.standard_normal((96, 20)),
        "heavy tails": rng.standard_t(2, (96, 20)),
        "all positive": rng.random((96, 20)) + 0.5,
        "all the same": np.full((96, 20), -0.3),
        "zeros": np.zeros((96, 20)),
        "tiny": rng.standard_normal((96, 20)) * 1e-12,
    }
    return arrays[kind].astype(np.float32)


KINDS = ("normal", "heavy tails", "all positive", "all the same", "zeros", "tiny")


def bfloat16(values: Floats) -> Floats:
    """The nearest values that bfloat16 holds."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def plain_4_bits(weight: Floats) -> Rounded:
    """Each block's largest absolute value gets the code -8, without a search."""
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    extremes = np.where(-low > high, low, high)
    scales = np.where(extremes == 0, np.float32(1), bfloat16(extremes / np.float32(-8)))
    codes = np.clip(np.rint(blocks / scales[:, None]), -8, 7).reshape(weight.shape)
    return Rounded(codes=codes.astype(np.int8), scales=scales)


def block_errors(rounded: Rounded, weight: Floats, importance: Floats | None = None) -> Floats:
    """(blocks, N): the squared error of each block."""
    counts = np.ones(len(weight), np.float32) if importance is None else importance
    squares = counts[:, None] * (rounded.values().astype(np.float64) - weight) ** 2
    return squares.reshape(-1, BLOCK, weight.shape[1]).sum(axis=1)


def test_8_bits_of_a_small_weight_are_as_by_hand() -> None:
    weight = np.array([[1.27, 0], [-0.634, 0], [0.1, 254], [0.05, -2]], np.float32)
    rounded = round_in_blocks(weight, 2)
    assert rounded.codes.tolist() == [[127, 0], [-63, 0], [127, 127], [64, -1]]
    assert np.array_equal(rounded.scales, bfloat16(np.array([[0.01, 1], [0.1 / 127, 2]], np.float32)))
    assert round_columns(weight).scales.shape == (2,)
    assert round_columns(weight).codes[:, 1].tolist() == [0, 0, 127, -1]


@pytest.mark.parametrize("kind", KINDS)
def test_8_bits_are_off_by_half_a_step_at_most(kind: str) -> None:
    weight = weights(kind)
    for rounded in (round_columns(weight), round_in_blocks(weight, BLOCK)):
        steps = np.repeat(np.atleast_2d(rounded.scales), len(weight) // len(np.atleast_2d(rounded.scales)), axis=0)
        assert rounded.codes.dtype == np.int8
        assert np.all(np.abs(rounded.values() - weight) <= 0.5001 * steps)


@pytest.mark.parametrize("kind", KINDS)
def test_4_bits_searched_are_never_worse_than_plain_in_any_block(kind: str) -> None:
    weight = weights(kind)
    plain, searched = plain_4_bits(weight), round_to_4_bits(weight, BLOCK)
    assert searched.codes.dtype == np.int8 and searched.codes.min() >= -8 and searched.codes.max() <= 7
    assert np.all(block_errors(searched, weight) <= block_errors(plain, weight) * (1 + 1e-5))


@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
def test_4_bits_searched_save_some_of_the_error(kind: str) -> None:
    weight = weights(kind)
    plain, searched = plain_4_bits(weight), round_to_4_bits(weight, BLOCK)
    assert block_errors(searched, weight).sum() < 0.98 * block_errors(plain, weight).sum()


def test_4_bits_put_the_error_where_it_counts_least() -> None:
    weight, importance = weights("normal"), np.ones(96, np.float32)
    importance[::8] = 100
    alike, weighed = round_to_4_bits(weight, BLOCK), round_to_4_bits(weight, BLOCK, importance)
    plain = plain_4_bits(weight)
    assert block_errors(weighed, weight, importance).sum() < block_errors(alike, weight, importance).sum()
    assert np.all(block_errors(weighed, weight, importance) <= block_errors(plain, weight, importance) * (1 + 1e-4))


def test_4_bits_keep_zero_exactly() -> None:
    weight = padded(weights("all positive")[:80], 96)
    assert np.all(round_to_4_bits(weight, BLOCK).values()[80:] == 0)


def test_4_bits_of_inputs_that_never_came_are_rounded_all_the_same() -> None:
    weight = weights("normal")
    restored = round_to_4_bits(weight, BLOCK, np.zeros(96, np.float32)).values()
    assert np.linalg.norm(restored - weight) < 0.12 * np.linalg.norm(weight)


def test_4_bits_use_all_16_codes_whichever_end_is_the_larger_one() -> None:
    weight = np.linspace(-1, 0.875, 16, dtype=np.float32).reshape(16, 1)
    for signed in (weight, -weight):
        rounded = round_to_4_bits(signed, 16)
        assert np.array_equal(rounded.values(), signed) and len(set(rounded.codes.ravel().tolist())) == 16


@pytest.mark.parametrize("kind", KINDS)
def test_scales_are_the_same_numbers_in_bfloat16(kind: str) -> None:
    weight = weights(kind)
    for rounded in (round_columns(weight), round_in_blocks(weight, 32), round_to_4_bits(weight, 32), round_to_fp8(weight)):
        assert rounded.scales.dtype == np.float32 and np.all(rounded.scales != 0)
        assert np.array_equal(rounded.scales, bfloat16(rounded.scales))


@pytest.mark.parametrize("kind", KINDS)
def test_8_bit_floats_are_the_nearest_ones(kind: str) -> None:
    weight = weights(kind)
    rounded = round_to_fp8(weight)
    assert rounded.codes.dtype == ml_dtypes.float8_e4m3fn and rounded.scales.shape == (20,)
    held = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    held = held[np.isfinite(held)]
    nearest = np.abs(weight[..., None] - held * rounded.scales[:, None]).min(axis=-1)
    assert np.allclose(np.abs(rounded.values() - weight), nearest, rtol=1e-3, atol=1e-6 * np.abs(weight).max())
    assert kind == "zeros" or np.abs(rounded.codes.astype(np.float32)).max(axis=0).min() >= 416


def test_packed_codes_have_the_first_in_the_low_half() -> None:
    assert pack_4_bits(np.array([[1, 2], [-1, 0]], np.int8)).tolist() == [0x21, 0x0F]
    assert pack_4_bits(np.array([-8, 7, 3], np.int8)).tolist() == [0x78, 0x03]


@pytest.mark.parametrize(
    "rounding", [round_columns, round_to_fp8, lambda w: round_in_blocks(w, 16), lambda w: round_to_4_bits(w, 32)]
)
def test_some_columns_at_a_time_give_the_same(rounding: object) -> None:
    weight = weights("normal")
    whole, parts = rounding(weight), round_by_columns(rounding, weight, columns=7)  # type: ignore[operator, arg-type]
    assert np.array_equal(whole.values(), parts.values())
    assert whole.scales.shape == parts.scales.shape


def product_error(inputs: Floats, weight: Floats, divisor: Floats) -> float:
    """The relative error of a product of which both sides are rounded to 8 bits."""
    scaled, rounded = inputs / divisor, round_columns(weight * divisor[:, None]).values()
    step = np.abs(scaled).max() / 127
    error = np.rint(scaled / step) * step @ rounded - inputs @ weight
    return float(np.linalg.norm(error) / np.linalg.norm(inputs @ weight))


def test_smoothing_halves_the_error_of_inputs_with_outliers() -> None:
    rng = np.random.default_rng(0)
    inputs, weight = rng.standard_normal((200, 96)).astype(np.float32), weights("normal")
    inputs[:, 7] *= 60
    divisor = smoothing(weight, np.abs(inputs).max(axis=0), np.square(inputs).mean(axis=0))
    assert divisor is not None and divisor.argmax() == 7
    assert product_error(inputs, weight, divisor) < 0.5 * product_error(inputs, weight, np.ones(96, np.float32))


def test_smoothing_of_even_inputs_is_left_out() -> None:
    inputs = np.random.default_rng(0).standard_normal((200, 96)).astype(np.float32)
    assert smoothing(weights("normal"), np.abs(inputs).max(axis=0), np.square(inputs).mean(axis=0)) is None


def test_smoothing_of_inputs_that_are_zero_is_finite() -> None:
    largest = np.zeros(96, np.float32)
    largest[3] = 50
    divisor = smoothing(weights("normal"), largest, largest**2 / 4)
    assert divisor is None or np.all(np.isfinite(divisor) & (divisor > 0))
