"""Deltas: they give back every byte, stay small, and refuse what is damaged or hostile."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lydite.delta import MAGIC, compose, make_delta
from lydite.errors import CardError
from lydite.onnx_guard import MAX_ONNX_BYTES

DRAW = np.random.default_rng(0)
BASE = DRAW.bytes(50_000)
NEW = DRAW.bytes(300)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def refused(delta: bytes, base: bytes = BASE) -> str:
    with pytest.raises(CardError) as caught:
        compose(base, delta, "The delta of a test")
    assert "The delta of a test" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("full", "most"),
    [
        (BASE, 30),
        (BASE[:20_003] + NEW + BASE[20_003:], 350),
        (BASE[:20_003] + NEW + BASE[20_303:], 350),
        (BASE[30_001:] + BASE[:30_001], 40),
        (BASE[:100] + BASE[40_000:], 40),
        (NEW + BASE + NEW, 700),
        (BASE[:7], 40),
        (BASE * 3, 50),
        (NEW, 330),
        (b"", 20),
    ],
    ids=["same", "insert", "replace", "swap", "drop", "ends", "short", "repeat", "new", "empty"],
)
def test_gives_back_every_byte_and_carries_little_more_than_what_is_new(
    full: bytes, most: int
) -> None:
    delta = make_delta(BASE, full)
    assert compose(BASE, delta) == full
    assert len(delta) <= most
    assert make_delta(BASE, full) == delta


@pytest.mark.parametrize("base", [b"", b"x", bytes(5_000), b"ab" * 3_000])
def test_odd_bases(base: bytes) -> None:
    for full in (base, bytes(7_001), b"ba" * 2_000 + NEW, NEW):
        assert compose(base, make_delta(base, full)) == full


def test_random_edits_come_back() -> None:
    for seed in range(60):
        draw = np.random.default_rng(seed)
        base = bytes(draw.integers(0, 3, int(draw.integers(0, 900)), dtype=np.uint8))
        full = bytearray(base)
        for _ in range(int(draw.integers(0, 6))):
            at, cut = int(draw.integers(0, len(full) + 1)), int(draw.integers(0, 80))
            full[at : at + cut] = draw.bytes(int(draw.integers(0, 80)))
        assert compose(base, make_delta(base, bytes(full))) == bytes(full)


def test_large_files_take_no_long_time() -> None:
    base = np.random.default_rng(1).bytes(8_000_000)
    full = base[:3_000_001] + NEW + base[3_000_200:]
    began = time.perf_counter()
    delta = make_delta(base, full)
    assert compose(base, delta) == full
    assert len(delta) < 400
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        (b"", "not a delta"),
        (b"lydite-delta 2\n\x00", "upgrade lydite"),
        (MAGIC, "damaged"),
        (MAGIC + varint(MAX_ONNX_BYTES + 1), "result has more than"),
        (MAGIC + varint(10) + varint(20), "ends too early"),
        (MAGIC + varint(10) + varint(5 << 1) + b"12345", "ends too early"),
        (MAGIC + varint(10) + varint(0), "empty or too long"),
        (MAGIC + varint(10) + varint(11 << 1) + bytes(11), "empty or too long"),
        (MAGIC + varint(10) + varint(1 << 62), "empty or too long"),
        (MAGIC + varint(10) + varint(10 << 1 | 1) + varint(1), "outside the base"),
        (MAGIC + varint(10) + varint(10 << 1 | 1) + varint(1 << 60), "outside the base"),
        (MAGIC + varint(60_000) + varint(60_000 << 1 | 1) + varint(0), "outside the base"),
        (MAGIC + b"\xff" * 20, "too long"),
        (MAGIC + varint(3) + varint(3 << 1) + b"123" + varint(1 << 1) + b"4", "too long"),
    ],
)
def test_damaged_and_hostile_deltas_are_refused(delta: bytes, reason: str) -> None:
    assert reason in refused(delta)


def test_a_small_delta_cannot_fill_the_memory() -> None:
    copies = varint(len(BASE) << 1 | 1) + varint(0)
    back = varint(len(BASE) << 1 | 1) + varint((len(BASE) << 1) - 1)
    assert "too long" in refused(MAGIC + varint(len(BASE) * 2) + copies + back * 10_000)


def test_every_truncation_and_any_noise_ends_in_our_own_error() -> None:
    sound = make_delta(BASE, BASE[:100] + NEW + BASE[200:])
    for end in range(len(sound)):
        refused(sound[:end])
    for seed in range(300):
        draw = np.random.default_rng(seed)
        data = bytearray(sound)
        data[int(draw.integers(0, len(data)))] = int(draw.integers(0, 256))
        try:
            assert len(compose(BASE, bytes(data))) <= MAX_ONNX_BYTES
        except CardError as error:
            assert "delta" in str(error)
