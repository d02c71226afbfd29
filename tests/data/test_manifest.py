"""Manifests put together: whose rows come first, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from lydite.data.manifest import Manifest
from lydite.errors import DataError


def test_joined_manifests_keep_every_row_in_order(tiny_manifest: Manifest) -> None:
    one, two = (tiny_manifest.select(domain=name) for name in ("one", "two"))
    both = two.joined(one)
    assert both.column("path") == two.column("path") + one.column("path")
    assert both.digest == tiny_manifest.digest
    assert len(two) == len(one) == len(both) / 2


def test_images_of_another_folder_are_not_joined(tiny_manifest: Manifest) -> None:
    moved = Manifest(tiny_manifest.table, Path("elsewhere"))
    with pytest.raises(DataError, match="and of elsewhere do not fit"):
        tiny_manifest.joined(moved)
