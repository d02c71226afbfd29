"""Mean spectra: known signals have known spectra, and the choice of images is nobody's."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest, Row
from lydite.errors import ConfigError, DataError
from lydite.evaluate.spectra import mean_spectra, pack_arrays
from lydite.evaluate.spectrum import (
    FLOOR,
    decibel,
    image_spectrum,
    power_spectrum,
    radial_profile,
    residual,
)
from lydite.files import sha256_file

RNG = np.random.default_rng(7)


def test_white_noise_has_its_variance_at_every_frequency() -> None:
    size, sigma = 64, 0.3
    mean = np.mean([power_spectrum(RNG.normal(0, sigma, (size, size))) for _ in range(400)], axis=0)
    away = np.hypot(*(np.indices((size, size)) - size // 2)) > 2
    assert mean[away].mean() == pytest.approx(sigma**2, rel=0.01)
    assert mean[away].std() < 0.08 * sigma**2
    profile = radial_profile(mean)[3:]
    assert profile == pytest.approx(sigma**2, rel=0.15)


def test_a_wave_is_a_point_at_its_frequency() -> None:
    size = 64
    y, x = np.indices((size, size))
    power = power_spectrum(np.cos(2 * np.pi * (10 * y + 6 * x) / size))
    rows, columns = np.nonzero(power > 0.9 * power.max())
    assert {tuple(p) for p in zip(rows - 32, columns - 32, strict=True)} == {(10, 6), (-10, -6)}
    # numpy's own transform, without our window, puts it in the same place
    plain = np.abs(np.fft.fftshift(np.fft.fft2(np.cos(2 * np.pi * (10 * y + 6 * x) / size))))
    assert set(np.argwhere(plain > 100).ravel()) == {22, 26, 38, 42}


def test_the_residual_is_the_image_minus_its_median() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    gray = RNG.uniform(0, 1, (40, 33))
    assert residual(gray) == pytest.approx(gray - ndimage.median_filter(gray, 3, mode="nearest"))
    flat = np.full((32, 32), 0.4)
    assert (residual(flat) == 0).all()
    assert (decibel(power_spectrum(residual(flat))) == 10 * np.log10(FLOOR)).all()


def test_the_profile_is_the_mean_over_rings() -> None:
    size = 32
    axis = np.arange(size) - 16
    distance = np.sqrt(axis[:, None] ** 2 + axis[None] ** 2)
    values = RNG.normal(size=(size, size))
    profile = radial_profile(values)
    assert len(profile) == int(size / np.sqrt(2)) + 1
    for ring in range(len(profile)):
        assert profile[ring] == pytest.approx(values[np.abs(distance - ring) < 0.5].mean())


def noise(side: int = 80) -> np.ndarray:
    return np.clip(RNG.normal(128, 20, (side, side, 3)), 0, 255).astype(np.uint8)


def doubled(side: int = 80) -> np.ndarray:
    """Return zeros woven between pixels, as a transposed convolution does before its kernel."""
    image = np.full((side, side, 3), 118.0)
    image[::2, ::2] += 20 + RNG.normal(0, 8, (side // 2, side // 2, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def manifest_rows(root: Path, per_class: int = 8, domain: str = "made") -> list[Row]:
    rows = []
    for number in range(per_class):
        for label, make in (("real", noise), ("fake", doubled)):
            name = f"{domain}-{label}-{number}.png"
            Image.fromarray(make()).save(root / name)
            sha = hashlib.sha256((root / name).read_bytes()).hexdigest()
            generator = "camera" if label == "real" else f"g{number % 2}"
            rows.append(Row(root / name, name, sha, label, generator, domain, "test", name))
    return rows


def test_woven_upsampling_peaks_at_half_a_cycle(tmp_path: Path) -> None:
    rows = manifest_rows(tmp_path)
    before = {row.file: row.file.read_bytes() for row in rows}
    found = mean_spectra(rows, ImageStore(0))
    assert {row.file: row.file.read_bytes() for row in rows} == before
    assert (found.size, found.labels, found.left_out) == (64, ("real", "fake"), {})
    (pair,) = found.pairs
    assert (pair.real.n, pair.fake.n) == (8, 8)
    down, across, height = pair.largest()
    assert {down, across} <= {0.0, 0.5} and max(down, across) == 0.5
    assert height > 10
    for place in ((0, 0), (0, 32), (32, 0)):
        assert pair.difference_db[place] > 10
        assert pair.fake.power_db[place] > np.median(pair.fake.power_db) + 20
    # the profile sees the axes at half a cycle and the corners beyond
    gap = pair.fake.radial_db - pair.real.radial_db
    assert found.frequencies[int(np.argmax(gap[40:])) + 40] == pytest.approx(0.7, abs=0.02)


def test_the_mean_is_the_mean_of_the_images(tmp_path: Path) -> None:
    rows = manifest_rows(tmp_path, per_class=3)
    found = mean_spectra(rows, ImageStore(0), size=32).pairs[0].real
    singles = [
        image_spectrum(np.asarray(Image.open(row.file)), 32) for row in rows if row.label == "real"
    ]
    assert found.power_db == pytest.approx(np.mean(singles, axis=0))
    profiles = np.array([radial_profile(single) for single in singles])
    assert found.radial_db == pytest.approx(profiles.mean(axis=0))
    assert found.radial_error_db == pytest.approx(profiles.std(axis=0, ddof=1) / np.sqrt(3))


def test_the_choice_follows_from_content_and_seed_alone(tmp_path: Path) -> None:
    rows = manifest_rows(tmp_path)
    one = mean_spectra(rows, ImageStore(0), count=3, size=32).pairs[0].real
    other = mean_spectra(rows[::-1], ImageStore(0), count=3, size=32).pairs[0].real
    another = mean_spectra(rows, ImageStore(0), count=3, size=32, seed=1).pairs[0].real
    assert one.n == other.n == 3
    assert one.power_db == pytest.approx(other.power_db)
    assert not np.allclose(one.power_db, another.power_db)


def test_a_generators_fakes_stand_against_all_real_images(tmp_path: Path) -> None:
    rows = manifest_rows(tmp_path)
    found = mean_spectra(rows, ImageStore(0), size=32, generators=True)
    assert [pair.label for pair in found.pairs] == ["made: g0", "made: g1"]
    assert [(pair.real.n, pair.fake.n) for pair in found.pairs] == [(8, 4), (8, 4)]


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    rows = manifest_rows(tmp_path)
    Image.fromarray(noise(20)).save(rows[0].file)
    rows[0] = replace(rows[0], sha256=sha256_file(rows[0].file))
    rows[2].file.write_bytes(b"no image")
    found = mean_spectra(rows, ImageStore(0), size=64)
    assert found.left_out == {"not-an-image": 1, "too-small": 1}
    assert found.pairs[0].real.n == 6
    with pytest.raises(DataError, match="No domain has images of both classes"):
        mean_spectra([row for row in rows if row.label == "fake"], ImageStore(0))
    with pytest.raises(DataError, match="No domain has images of both classes"):
        mean_spectra([], ImageStore(0))


@pytest.mark.parametrize("wrong", [{"count": 0}, {"size": 15}, {"size": 33}, {"size": 4096}])
def test_wrong_settings_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(wrong))}` must be"):
        mean_spectra([], ImageStore(0), **wrong)


def test_arrays_and_json_hold_the_same_means(tiny_manifest: Manifest) -> None:
    found = mean_spectra(list(tiny_manifest.rows()), ImageStore(0), count=5)
    value = found.to_dict()
    assert [pair["domain"] for pair in value["pairs"]] == ["one", "two"]
    with np.load(io.BytesIO(pack_arrays(found)), allow_pickle=False) as arrays:
        assert sorted(arrays) == ["0-fake", "0-real", "1-fake", "1-real"]
        stored = radial_profile(arrays["1-fake"].astype(float))
    assert stored == pytest.approx(value["pairs"][1]["fake"]["radial_db"], abs=1e-3)
    assert pack_arrays(found) == pack_arrays(found)
