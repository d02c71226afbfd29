"""Procedural photographs: a scene of occluding shapes, seen through a lens and a camera.

Scenes follow the dead-leaves model (Lee, Mumford and Huang 2001, "Occlusion Models for Natural
Images"): shapes with power-law sizes that hide each other, which gives natural images' spectrum.
The camera adds what every photograph carries: a point spread, a Bayer mosaic and its
interpolation, noise that grows with the light, and a tone curve. Images are float32 (3, H, W).
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

#: scene pixels per sensor pixel, along a side
OVERSAMPLING = 2
#: the repeated cell of the sensor's color filter: channel by row and column
BAYER = np.array([[0, 1], [1, 2]])
#: Rec. 601 weights of red, green and blue in brightness, the ones that JPEG uses
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
#: exponents of the amplitude spectra that surfaces are textured with, and their stretch
TEXTURES = ((0.8, 1.0), (1.1, 1.0), (1.4, 1.0), (1.0, 4.0), (1.2, 0.25), (1.7, 1.0))
TEXTURE_SIDE = 256
#: corners of what is drawn round, and how many large shapes lie behind all others
ROUND = 24
BACKDROP = 12
#: how colors vary in nature: mostly from yellow to blue, less from green to magenta (in log light)
HUES = np.array([[0.30, 0.02, -0.32], [0.09, -0.14, 0.05]])


def frequencies(height: int, width: int) -> tuple[Float32, Float32]:
    """Return the rows' and columns' frequencies of a real FFT, in cycles per pixel.

    Returns:
        (H, 1) and (1, W // 2 + 1).
    """
    rows = np.fft.fftfreq(height).astype(np.float32)[:, None]
    columns = np.fft.rfftfreq(width).astype(np.float32)[None]
    return rows, columns


def make_textures(rng: np.random.Generator, side: int = TEXTURE_SIDE) -> Float32:
    """Return seamless tiles of 1/f noise with mean 0 and variance 1: (T, side, side)."""
    rows, columns = frequencies(side, side)
    tiles = []
    for exponent, stretch in TEXTURES:
        radius = np.hypot(rows * stretch, columns / stretch)
        radius[0, 0] = np.inf
        white = np.fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
        tile = np.fft.irfft2(white * radius**-exponent, s=(side, side))
        tiles.append((tile - tile.mean()) / tile.std())
    return np.stack(tiles).astype(np.float32)


def _outlines(rng: np.random.Generator, radius: Float32) -> list[NDArray[np.float64]]:
    """Return the corners of disks, ellipses and polygons around the origin: (K, 2) each."""
    shapes = len(radius)
    corners = np.where(rng.random(shapes) < 0.5, ROUND, rng.integers(3, 7, shapes))
    turns = np.arange(ROUND) * (2 * np.pi / corners[:, None])
    # corners of polygons are not regular, those of ellipses are
    turns += rng.uniform(-0.4, 0.4, turns.shape) * (corners < ROUND)[:, None]
    flat = np.where(rng.random(shapes) < 0.25, 1.0, rng.uniform(0.2, 1.0, shapes))
    tilt = rng.uniform(0, np.pi, shapes)[:, None]
    a, b = np.cos(turns), np.sin(turns) * flat[:, None]
    around = np.stack(
        [a * np.cos(tilt) - b * np.sin(tilt), a * np.sin(tilt) + b * np.cos(tilt)], -1
    )
    around *= radius[:, None, None]
    return [around[i, : corners[i]] for i in range(shapes)]


def _draw_labels(
    rng: np.random.Generator, side: int, shapes: int
) -> tuple[NDArray[np.int32], Float32]:
    """Paint shapes over each other.

    Returns:
        The number of the shape that is seen at each pixel, 0 for none (side, side), and every
        shape's center x and y and radius (3, shapes + 1).
    """
    smallest, largest, exponent = 3.0, 0.45 * side, 2.0
    u = rng.random(shapes)
    # inverse of the cumulative distribution of p(r) ~ r^-(exponent + 1)
    radius = (smallest**-exponent * (1 - u) + largest**-exponent * u) ** (-1 / exponent)
    radius[:BACKDROP] = rng.uniform(0.15, 0.5, BACKDROP) * side
    centers = rng.uniform(-0.05 * side, 1.05 * side, (shapes, 2))
    canvas = Image.new("I", (side, side), 0)
    pen = ImageDraw.Draw(canvas)
    for i, outline in enumerate(_outlines(rng, radius.astype(np.float32))):
        pen.polygon((outline + centers[i]).ravel().tolist(), fill=i + 1)
    geometry = np.full((3, shapes + 1), side / 2, dtype=np.float32)
    geometry[:2, 1:], geometry[2, 1:] = centers.T, radius
    return np.asarray(canvas, dtype=np.int32), geometry


def render_scene(rng: np.random.Generator, side: int, textures: Float32) -> Float32:
    """Return the light of a scene, linear, about 1 where it is brightest: (3, side, side).

    Args:
        rng: decides everything.
        side: of the square scene, in pixels.
        textures: from `make_textures`.
    """
    shapes = int(rng.integers(60, 160) * (side / 160) ** 2) + BACKDROP
    labels, (x, y, radius) = _draw_labels(rng, side, shapes)
    count = shapes + 1
    # a photograph has few hues: three surface colors, and small departures from them
    palette = rng.normal(0.0, 1.0, (3, 2))[rng.integers(0, 3, count)]
    tint = (palette + rng.normal(0.0, 0.3, (count, 2))) @ HUES
    brightness = rng.normal(-1.4, rng.uniform(0.45, 0.9), (count, 1))
    color = (brightness + tint).astype(np.float32)
    slope = rng.normal(0.0, 0.35, (2, count)).astype(np.float32)
    depth = (rng.gamma(2.0, 0.09, count)).astype(np.float32)
    surface = rng.integers(0, len(textures), count)

    # shading across each shape and the texture of its surface, both as factors of the light
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
    inverse = 1.0 / radius
    log_light = slope[0][labels] * (columns - x[labels]) * inverse[labels]
    log_light += slope[1][labels] * (rows - y[labels]) * inverse[labels]
    np.clip(log_light, -0.9, 0.9, out=log_light)
    tile = textures.shape[-1]
    down, right = rng.integers(0, tile, 2)
    at_row = (np.arange(side) + down)[:, None] % tile
    at_column = (np.arange(side) + right)[None] % tile
    log_light += depth[labels] * textures[surface[labels], at_row, at_column]
    return np.asarray(np.exp(color.T)[:, labels] * np.exp(log_light), dtype=np.float32)


def _lens(rng: np.random.Generator, scene: Float32) -> Float32:
    """Blur by diffraction, defocus and the pixel's own area, then sample at the sensor's pitch."""
    side = scene.shape[-1]
    rows, columns = frequencies(side, side)
    sigma = rng.uniform(0.4, 0.9) * OVERSAMPLING / 2
    # astigmatism: the blur is seldom round
    stretch = rng.uniform(0.85, 1.15)
    spread = np.exp(-2 * (np.pi * sigma) ** 2 * ((rows * stretch) ** 2 + (columns / stretch) ** 2))
    transfer = spread * np.sinc(rows * OVERSAMPLING) * np.sinc(columns * OVERSAMPLING)
    blurred = np.fft.irfft2(np.fft.rfft2(scene) * transfer.astype(np.float32), s=(side, side))
    return np.asarray(blurred[:, ::OVERSAMPLING, ::OVERSAMPLING], dtype=np.float32)


def _shifted(plane: Float32, down: int, right: int) -> Float32:
    """Return the plane moved by some pixels, wrapping round (edges are cropped away later)."""
    return np.roll(plane, (down, right), axis=(-2, -1))


def demosaic(mosaic: Float32) -> Float32:
    """Fill in the two colors that each sensor pixel lacks, linearly.

    Malvar, He and Cutler 2004, "High-quality linear interpolation for demosaicing of
    Bayer-patterned color images": bilinear, corrected by the gradient of the known color.

    Args:
        mosaic: (H, W), even sides, filters as in `BAYER`.

    Returns:
        (3, H, W).
    """
    left_right = _shifted(mosaic, 0, 1) + _shifted(mosaic, 0, -1)
    up_down = _shifted(mosaic, 1, 0) + _shifted(mosaic, -1, 0)
    far_lr = _shifted(mosaic, 0, 2) + _shifted(mosaic, 0, -2)
    far_ud = _shifted(mosaic, 2, 0) + _shifted(mosaic, -2, 0)
    corners = _shifted(left_right, 1, 0) + _shifted(left_right, -1, 0)
    green = (4 * mosaic + 2 * (left_right + up_down) - far_lr - far_ud) / 8
    along = (5 * mosaic + 4 * left_right - corners - far_lr + 0.5 * far_ud) / 8
    across = (5 * mosaic + 4 * up_down - corners - far_ud + 0.5 * far_lr) / 8
    diagonal = (6 * mosaic + 2 * corners - 1.5 * (far_lr + far_ud)) / 8
    full = np.empty((3, *mosaic.shape), dtype=np.float32)
    full[1] = mosaic
    full[1, 0::2, 0::2], full[1, 1::2, 1::2] = green[0::2, 0::2], green[1::2, 1::2]
    for color, odd in ((0, 0), (2, 1)):
        # `odd` is the parity of the rows and columns at which this color is measured
        even = 1 - odd
        full[color, odd::2, odd::2] = mosaic[odd::2, odd::2]
        full[color, odd::2, even::2] = along[odd::2, even::2]
        full[color, even::2, odd::2] = across[even::2, odd::2]
        full[color, even::2, even::2] = diagonal[even::2, even::2]
    return full


def to_mosaic(rgb: Float32) -> Float32:
    """Keep of each pixel the one color that its filter lets through: (3, H, W) to (H, W)."""
    mosaic = np.empty(rgb.shape[1:], dtype=np.float32)
    for row in (0, 1):
        for column in (0, 1):
            mosaic[row::2, column::2] = rgb[BAYER[row, column], row::2, column::2]
    return mosaic


def take_photograph(rng: np.random.Generator, side: int, textures: Float32) -> Float32:
    """Return a photograph as a camera shows it before compression.

    Args:
        rng: decides the scene, the lens, the exposure and the noise.
        side: of the square image, in pixels; even.
        textures: from `make_textures`.

    Returns:
        (3, side, side) float32 in [0, 1].
    """
    light = _lens(rng, render_scene(rng, side * OVERSAMPLING, textures))
    light *= rng.uniform(0.75, 1.1) / np.quantile(light, 0.97)
    # the sensor sees its own color balance, which is undone after the mosaic: so is noise scaled
    balance = np.array([rng.uniform(0.5, 0.75), 1.0, rng.uniform(0.5, 0.75)], dtype=np.float32)
    mosaic = to_mosaic(light * balance[:, None, None])
    # Foi et al. 2008, "Practical Poissonian-Gaussian noise modeling": variance a * signal + b
    gain = np.exp(rng.uniform(np.log(1e-4), np.log(1.2e-3)))
    variance = gain * np.maximum(mosaic, 0) + 0.01 * gain
    noise = rng.standard_normal(mosaic.shape, dtype=np.float32)
    mosaic = np.clip(mosaic + np.sqrt(variance) * noise, 0.0, 1.0).astype(np.float32)
    linear = np.clip(demosaic(mosaic) / balance[:, None, None], 0.0, 1.0)
    gamma = rng.uniform(0.42, 0.52)
    contrast = rng.uniform(0.0, 0.35)
    curve = linear**gamma
    return np.asarray(curve + contrast * (curve**2 * (3 - 2 * curve) - curve), dtype=np.float32)


def to_pixels(rgb: Float32) -> UInt8:
    """Round (3, H, W) in [0, 1] to pixels (H, W, 3) uint8."""
    return np.ascontiguousarray(
        np.rint(np.clip(rgb, 0.0, 1.0) * 255).astype(np.uint8).transpose(1, 2, 0)
    )


def encode_jpeg(pixels: UInt8, quality: int) -> bytes:
    """Return (H, W, 3) pixels as a baseline JPEG with 4:2:0 color."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
    return buffer.getvalue()
