"""The images of a study: scanned or made once, and divided by what they may be used for.

```
FOLDER/manifest.parquet   the images of a scan
FOLDER/scan.json          what was asked of it
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lydite.data.manifest import Manifest
from lydite.errors import DataError, LyditeError, unknown_name
from lydite.files import read_json, write_json
from lydite.recipe import Progress, silent
from lydite.study.apart import without_generators
from lydite.study.execute import Learning
from lydite.study.results import STUDY_FILE
from lydite.study.spec import DataSpec
from lydite.study.twins import Twins, with_twins

MANIFEST_FILE = "manifest.parquet"
SCAN_FILE = "scan.json"


@dataclass(frozen=True)
class StudyData:
    """A study's images, divided by what they may be used for."""

    manifest: Manifest
    learning: Learning
    test: Manifest

    @property
    def digests(self) -> dict[str, str]:
        """Digests by role, for results and the check on resuming."""
        return {
            "manifest": self.manifest.digest,
            **self.learning.digests,
            "test": self.test.digest,
        }


def load_data(
    spec: DataSpec, folder: Path, progress: Progress = silent, *, renew: bool = False
) -> StudyData:
    """Return the study's images; scans and demo data are made once and kept in `folder`.

    Args:
        spec: which images, and what they are for.
        folder: of the study, or of all its folds.
        progress: told about the work.
        renew: scan again what was scanned before.

    Raises:
        DataError: a seen or source domain or an unseen generator does not exist, or a split is
            empty.
    """
    manifest = study_manifest(spec, folder, progress, renew=renew).readable()
    there = sorted(set(manifest.column("domain")))
    for name in spec.exclude:
        if name not in there:
            raise DataError(f"`exclude`: {unknown_name('domain', name, there)}")
    manifest = manifest.select(label=list(spec.labels))
    domains = sorted(set(manifest.column("domain")) - set(spec.exclude))
    for role, names in (("seen", spec.seen), ("source", spec.source)):
        strange = [name for name in names if name not in domains]
        if strange:
            raise DataError(
                f"The {role} domain '{strange[0]}' is not in the data. "
                f"Domains: {', '.join(domains)}."
            )
    manifest = manifest.select(domain=domains)
    learned = without_generators(manifest, spec.unseen_generators, spec.labels[1])
    seen = learned.select(domain=list(spec.seen))
    train, val = seen.select(split="train"), seen.select(split="val")
    test = manifest.select(split="test")
    for name, part in (("train", train), ("val", val), ("test", test)):
        if len(part) == 0:
            raise DataError(f"The {name} split of {', '.join(spec.seen)} holds no image.")
    known = learned.select(split="train", domain=list(spec.source)) if spec.source else None
    twins = Twins(train, spec.twins) if spec.twins else None
    train = with_twins(train, spec.twins)
    return StudyData(manifest, Learning(train, val, known, twins=twins), test)


def study_manifest(
    spec: DataSpec, folder: Path, progress: Progress = silent, *, renew: bool = False
) -> Manifest:
    """Return the manifest that a study names, made once where it has to be made.

    A scan is kept with what was asked of it, and serves again where the same is asked. Where a
    study already stands in the folder that asked otherwise, its manifest is left alone.

    Args:
        spec: which images.
        folder: of the study, or of all its folds.
        progress: told about the work.
        renew: scan again what was scanned before.

    Raises:
        LyditeError: it cannot be read or made.
    """
    if spec.manifest is not None:
        return Manifest.read(spec.manifest)
    if spec.demo is not None:
        from lydite.data.demo import make_demo

        demo = spec.demo
        return make_demo(
            folder / "data", size=demo.size, count=demo.count, seed=demo.seed, progress=progress
        )
    assert spec.scan is not None, "the validator allows no other case"
    from lydite.data.scan import scan

    path, asked = folder / MANIFEST_FILE, spec.scan.model_dump(mode="json")
    before = _scan_of(folder)
    if path.is_file() and before == asked and not renew:
        return Manifest.read(path)
    scanned = scan(spec.scan.root, spec.scan.layout, real=spec.scan.real, fake=spec.scan.fake)
    if before in (None, asked) or renew or not (folder / STUDY_FILE).is_file():
        # not to be taken for the manifest of another question, whenever this is killed
        (folder / SCAN_FILE).unlink(missing_ok=True)
        scanned.write(path)
        write_json(folder / SCAN_FILE, asked)
    return scanned


def _scan_of(folder: Path) -> Any:
    """Return what was asked of the scan whose manifest a folder holds, None where nobody knows."""
    path = folder / SCAN_FILE
    try:
        return read_json(path) if path.is_file() else None
    except LyditeError:  # a broken note is as good as none
        return None
