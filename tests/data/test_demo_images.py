"""The photographs have natural statistics, and every generator leaves its period in them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from lydite.data.demo import DEMO_DOMAINS
from lydite.data.demo.generators import (
    BINOMIAL,
    Generator,
    convolve,
    halve,
    high_pass,
    make_generators,
    match_spectrum,
    separable,
    spread,
)
from lydite.data.demo.latent import LatentDecoder, fit_latent_decoder
from lydite.data.demo.photographs import (
    LUMA,
    Float32,
    demosaic,
    encode_jpeg,
    make_textures,
    take_photograph,
    to_mosaic,
    to_pixels,
)

SIDE = 80
EDGE = 8


@pytest.fixture(scope="module")
def photographs() -> list[Float32]:
    textures = make_textures(np.random.default_rng(0))
    return [take_photograph(np.random.default_rng([9, i]), SIDE, textures) for i in range(96)]


@pytest.fixture(scope="module")
def generators(photographs: list[Float32]) -> dict[str, Generator]:
    return make_generators(np.random.default_rng(1), lambda n: photographs[:n])


def lattice(image: Float32, period: int) -> NDArray[np.float64]:
    """How unevenly fine detail is spread over the places of a period: the DFT over its phases.

    Zero, but for chance, where every phase has as much detail as the others.
    """
    power = np.log(np.abs(high_pass(image)[EDGE:-EDGE, EDGE:-EDGE]) + 1e-3)
    count = power.shape[0] // period
    phases = power.reshape(count, period, count, period).mean(axis=(0, 2))
    return np.abs(np.fft.fft2(phases)).ravel()[1:] / period**2


def spectrum(image: Float32) -> NDArray[np.float64]:
    """Log power of the fine detail, without the edges: (64, 64), zero frequency first."""
    detail = high_pass(image)[EDGE:-EDGE, EDGE:-EDGE]
    window = np.outer(np.hanning(len(detail)), np.hanning(len(detail)))
    return np.log(np.abs(np.fft.fft2(detail * window)) ** 2 + 1e-9)


def test_photographs_have_a_natural_spectrum(photographs: list[Float32]) -> None:
    window = np.outer(np.hanning(SIDE), np.hanning(SIDE))
    power = np.zeros((SIDE, SIDE))
    for image in photographs:
        luma = np.tensordot(LUMA, image, 1)
        power += np.abs(np.fft.fft2((luma - luma.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    middle = (radius > 2 / SIDE) & (radius < 0.25)
    slope = np.polyfit(np.log(radius[middle]), np.log(power[middle]) / 2, 1)[0]
    # amplitude falls about like 1/f in natural images, a little faster through a lens
    assert -1.5 < slope < -0.8


def test_photographs_differ_and_fill_their_range(photographs: list[Float32]) -> None:
    stack = np.stack(photographs)
    assert stack.shape == (96, 3, SIDE, SIDE)
    assert stack.dtype == np.float32
    assert stack.min() >= 0
    assert stack.max() <= 1
    assert 0.25 < stack.mean() < 0.65
    assert stack.mean(axis=(1, 2, 3)).std() > 0.03
    assert np.quantile(stack, 0.99) - np.quantile(stack, 0.01) > 0.6


def test_textures_are_seamless_and_fall_with_frequency() -> None:
    tiles = make_textures(np.random.default_rng(5), side=64)
    np.testing.assert_allclose(tiles.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(tiles.std(axis=(1, 2)), 1, rtol=1e-4)
    inside = np.abs(np.diff(tiles, axis=2)).mean()
    across = np.abs(tiles[:, :, 0] - tiles[:, :, -1]).mean()
    assert across < 1.5 * inside


def test_demosaic_keeps_measured_values_and_gray_ramps() -> None:
    rng = np.random.default_rng(0)
    mosaic = rng.random((8, 8), dtype=np.float32)
    np.testing.assert_array_equal(to_mosaic(demosaic(mosaic)), mosaic)
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32), (3, 12, 12))
    inner = (slice(None), slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(demosaic(to_mosaic(ramp))[inner], ramp[inner], atol=1e-5)


def test_pixels_are_rounded_and_clipped() -> None:
    image = np.array([-0.1, 0.5, 1.2], dtype=np.float32).reshape(3, 1, 1)
    np.testing.assert_array_equal(to_pixels(image), [[[0, 128, 255]]])


def test_jpeg_quality_is_the_one_asked_for() -> None:
    gray = np.full((16, 16, 3), 90, dtype=np.uint8)
    tables = []
    for quality in (85, 95):
        with Image.open(io.BytesIO(encode_jpeg(gray, quality))) as image:
            tables.append(sum(image.quantization[0]))
    assert tables[0] > 2 * tables[1]


def test_convolve_is_a_wrapping_correlation() -> None:
    rng = np.random.default_rng(0)
    planes, kernel = rng.random((2, 6, 7), dtype=np.float32), rng.random((3, 4))
    expected = np.zeros_like(planes)
    for y, x in np.ndindex(6, 7):
        for i, j in np.ndindex(3, 4):
            expected[:, y, x] += kernel[i, j] * planes[:, (y + i - 1) % 6, (x + j - 1) % 7]
    np.testing.assert_allclose(convolve(planes, kernel), expected, rtol=1e-5)


def test_halve_and_spread_change_the_size_and_keep_the_mean() -> None:
    image = np.random.default_rng(0).random((3, 8, 8), dtype=np.float32)
    taps = np.array([0.25, 0.5, 0.25])
    assert halve(image, taps).shape == (3, 4, 4)
    assert halve(np.ones((3, 8, 8), np.float32), taps) == pytest.approx(1)
    assert spread(image, 0).mean() == pytest.approx(image.mean() / 4, rel=1e-5)
    np.testing.assert_array_equal(spread(image, 1)[:, 1::2, 1::2], image)


@pytest.mark.parametrize("name", DEMO_DOMAINS)
def test_up_and_down_leave_everything_in_its_place(
    name: str, photographs: list[Float32], generators: dict[str, Generator]
) -> None:
    network = generators[name].network
    image = photographs[0]
    back = network.decode(network.encode(image), np.random.default_rng(0))
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    errors = [((np.roll(back, shift, (1, 2)) - image) ** 2).mean() for shift in shifts]
    assert shifts[int(np.argmin(errors))] == (0, 0)


def test_match_spectrum_takes_over_power_but_not_the_picture() -> None:
    rng = np.random.default_rng(0)
    soft = convolve(rng.standard_normal((3, 64, 64), dtype=np.float32), np.full((2, 2), 0.25))
    sharp = rng.standard_normal((3, 64, 64), dtype=np.float32) * 0.5
    matched = match_spectrum(soft, sharp)
    assert high_pass(matched).std() == pytest.approx(high_pass(sharp).std(), rel=0.25)
    assert np.corrcoef(matched.ravel(), soft.ravel())[0, 1] > 0.9
    np.testing.assert_allclose(match_spectrum(sharp, sharp), sharp, atol=1e-4)


def test_latent_decoder_rebuilds_photographs(photographs: list[Float32]) -> None:
    model = fit_latent_decoder(photographs[:32])
    assert isinstance(model, LatentDecoder)
    rng = np.random.default_rng(0)
    errors, powers = [], []
    for image in photographs[32:40]:
        latent = model.encode(image)
        assert latent.shape == (16, SIDE // 4, SIDE // 4)
        np.testing.assert_array_equal(latent % 0.25, 0)
        errors.append(((model.decode(latent, rng) - image) ** 2).mean())
        powers.append(image.var())
    assert np.mean(errors) < 0.15 * np.mean(powers)


def test_names_of_the_generators_are_the_domains(generators: dict[str, Generator]) -> None:
    assert tuple(generators) == DEMO_DOMAINS


@pytest.mark.parametrize("name", DEMO_DOMAINS)
def test_a_fake_keeps_the_picture_and_its_sharpness(
    name: str, photographs: list[Float32], generators: dict[str, Generator]
) -> None:
    ratios, likeness = [], []
    for i, photograph in enumerate(photographs[:16]):
        fake = generators[name](photograph, np.random.default_rng(i))
        again = generators[name](photograph, np.random.default_rng(i))
        np.testing.assert_array_equal(fake, again)
        assert fake.min() >= 0
        assert fake.max() <= 1
        # fine detail is invented; what is larger than the small grid's pixels has to stay
        coarse = [separable(separable(of, BINOMIAL), BINOMIAL) for of in (fake, photograph)]
        likeness.append(np.corrcoef(coarse[0].ravel(), coarse[1].ravel())[0, 1])
        assert not np.array_equal(fake, photograph)
        ratios.append(high_pass(fake).std() / high_pass(photograph).std())
    assert np.mean(likeness) > 0.97
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("name", "period"),
    [("sim-transposed", 2), ("sim-nearest", 2), ("sim-bilinear", 2), ("sim-latent", 4)],
)
def test_a_generator_leaves_the_period_of_its_upsampling(
    name: str, period: int, photographs: list[Float32], generators: dict[str, Generator]
) -> None:
    """Its grid shows in the fakes of fresh photographs, more than in the photographs."""
    fakes = [generators[name](p, np.random.default_rng(i)) for i, p in enumerate(photographs)]
    real = np.stack([lattice(image, period) for image in photographs])
    fake = np.stack([lattice(image, period) for image in fakes])
    labels = np.repeat([0, 1], 48)
    learn = np.concatenate([real[:48], fake[:48]])
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(learn, labels)
    scores = probe.decision_function(np.concatenate([real[48:], fake[48:]]))
    assert roc_auc_score(labels, scores) > 0.65


def test_transposed_convolution_peaks_at_the_highest_frequency(
    photographs: list[Float32], generators: dict[str, Generator]
) -> None:
    """The checkerboard of AutoGAN's figure: a peak in the corner of the spectrum."""
    generator = generators["sim-transposed"]
    rise = np.mean(
        [spectrum(generator(p, np.random.default_rng(0))) - spectrum(p) for p in photographs[:64]],
        axis=0,
    )
    half = len(rise) // 2
    peak = max(rise[half, half], rise[0, half], rise[half, 0])
    assert peak > 2.0
    assert peak > 3 * np.abs(np.median(rise))
