"""A made-up study: results, scores and images, without any network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lydite.card import Figure
from lydite.data.manifest import Manifest, from_columns
from lydite.data.preprocess import probability
from lydite.evaluate.score import SCORES_SCHEMA, write_scores
from lydite.evaluate.summary import summarize
from lydite.evaluate.threshold import fit_meaning
from lydite.evaluate.unseen import Roles
from lydite.files import sha256_file, write_json
from lydite.study.results import Cost, Result, StepCost, write_result

DOMAINS = ("sim-a", "sim-b", "sim-c")
#: recipe: (approach, parameters, file size, how far apart the classes lie, seen and unseen)
RECIPES = {
    "BL": ("BL", 2_000_000, 8_000_000, 3.5, 0.3),
    "CPF-60": ("CPF", 800_000, 3_200_000, 3.4, 0.5),
    "CPF-90": ("CPF", 200_000, 800_000, 3.2, 0.2),
    "CKD-90": ("CKD", 200_000, 810_000, 3.0, -0.2),
    "CQ": ("CQ", 2_000_000, 5_000_000, 3.5, 0.3),
    "ours-small": ("ours", 28_000, 120_000, 2.6, 1.4),
}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_manifest(folder: Path, per_class: int = 12, side: int = 40) -> Manifest:
    """Write test images, those of the seen domain under hostile names."""
    rng = np.random.default_rng(0)
    columns: dict[str, list[object]] = {}
    for domain in DOMAINS:
        for label in ("real", "fake"):
            for number in range(per_class):
                name = f"{domain}-{label}-{number}.png"
                if domain == "sim-a":
                    name = f'{label}{number}"><script>alert(1)<!--.png'
                Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
                    folder / name
                )
                row = {
                    "path": name,
                    "sha256": sha256_file(folder / name),
                    "label": label,
                    "generator": "camera" if label == "real" else f"{domain}-{number % 2}",
                    "domain": domain,
                    "split": "test",
                    "group": f"{domain}-{label}-{number}",
                    "width": side,
                    "height": side,
                    "bytes": 1,
                    "format": "PNG",
                    "quality": None,
                    "error": None,
                }
                for key, value in row.items():
                    columns.setdefault(key, []).append(value)
    manifest = from_columns(columns, folder)
    manifest.write(folder / "manifest.parquet")
    return manifest


def make_scores(manifest: Manifest, recipe: str, seed: int) -> pa.Table:
    """Return scores as a detector of this recipe might give them."""
    _, _, _, seen, unseen = RECIPES[recipe]
    rng = np.random.default_rng([seed, len(recipe)])
    apart = np.where(np.array(manifest.column("domain")) == "sim-a", seen, unseen)
    z = rng.normal(manifest.targets * apart, 1.0)
    first = np.array(manifest.column("domain")) == "sim-a"
    meaning = fit_meaning(z[first], manifest.targets[first], sha("val"))
    columns = {
        name: manifest.column(name)
        for name in ("path", "sha256", "label", "generator", "domain", "split", "group")
    }
    count = len(manifest)
    columns |= {
        "key": [sha(recipe)] * count,
        "detector": [recipe] * count,
        "runtime": ["onnxruntime"] * count,
        "degradation": ["none"] * count,
        "target": manifest.targets.tolist(),
        "z": z.tolist(),
        "p_fake": probability(z, meaning).tolist(),
        "error": [None] * count,
    }
    return pa.table({n: columns[n] for n in SCORES_SCHEMA.names}, schema=SCORES_SCHEMA)


def make_result(recipe: str, scores: pa.Table) -> Result:
    """Return the result of scores."""
    approach, parameters, size_bytes, seen, _ = RECIPES[recipe]
    trained = Figure(metric="auc", value=0.93, n=40, slice={"split": "val"})
    final = Figure(metric="auc", value=min(0.99, 0.25 * seen + 0.1), n=40, slice={"split": "val"})
    steps = [
        StepCost(
            step={"train": {"steps": 9}},
            key=sha("BL"),
            seconds=61.0,
            cached=True,
            figures=(trained,),
            parameters=2_000_000 if approach != "ours" else 28_000,
            trainable_parameters=1_999_000,
            peak_bytes=412_000_000,
        )
    ]
    if approach not in ("BL", "ours"):
        steps.append(
            StepCost(
                step={"prune": {"rate": 0.9}},
                key=sha(recipe),
                seconds=2.0,
                figures=(final,),
                parameters=parameters,
            )
        )
    return Result(
        study="made-up",
        recipe=recipe,
        approach=approach,
        reference=recipe == "BL",
        spec={"name": recipe, "steps": [{"train": {"steps": 9}}]},
        key=sha(recipe),
        card_digest=sha(recipe + "card"),
        seed=0,
        created="2026-01-02T03:04:05+00:00",
        versions={"lydite": "0"},
        hardware={"machine": "none", "cores": 2},
        data={"test": sha("test")},
        seen=("sim-a",),
        steps=tuple(steps),
        cost=Cost(
            parameters=parameters,
            macs=parameters * 90,
            size_bytes=size_bytes,
            compression_rate=None if recipe == "BL" else 1 - parameters / 2_000_000,
            latency_ms=size_bytes / 1e6,
            latency_ratio=8_000_000 / size_bytes,
        ),
        figures=summarize(scores, roles=Roles(("sim-a",)), n_boot=100),
    )


def make_study(folder: Path, manifest: Manifest) -> Path:
    """Write a study's folder."""
    for recipe in RECIPES:
        scores = make_scores(manifest, recipe, seed=0)
        write_scores(folder / "scores" / f"{recipe}.parquet", scores)
        write_result(folder / "results", make_result(recipe, scores))
    write_json(
        folder / "study.json",
        {
            "study": {
                "name": "made-up",
                "title": "A made-up study <of nothing>",
                "data": {"manifest": str(manifest.root / "manifest.parquet"), "seen": ["sim-a"]},
                "recipes": [{"name": name} for name in RECIPES],
            },
            "data": {},
        },
    )
    return folder


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = tmp_path_factory.mktemp("images")
    return make_study(tmp_path_factory.mktemp("study"), make_manifest(images))
