"""Aligned data: photographs and twins that differ in nothing but an autoencoder's traces.

A detector that learns from photographs here and generated images there learns their subjects,
sizes and file formats first. A twin is the photograph itself, encoded and decoded: subject, size,
format, even the photograph's own compression are the same on both sides, and what is left to learn
is what a decoder leaves (Rajan et al. 2025, "Aligned Datasets Improve Detection of Latent
Diffusion-Generated Images").
"""

from __future__ import annotations
