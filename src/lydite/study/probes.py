"""Leakage probes of a study: run once for its images, kept beside its results, never changed.

```
FOLDER/probes/probes-<key>.json             figures of every probe, and what they were made from
FOLDER/probes/probes-<key>-<name>.parquet   scores, one row a test image
```

The key says which images, labels and seed, and which version of the probes: what is there is not
done again, and other data in the same folder get a document of their own.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from lydite.card import Figure
from lydite.config import Frozen, Sha256, validation_sentence
from lydite.data.images import ImageStore
from lydite.data.manifest import Manifest
from lydite.detector import versions
from lydite.errors import DataError
from lydite.evaluate.score import write_scores
from lydite.evaluate.summary import summarize
from lydite.files import digest, read_json, write_json
from lydite.recipe import Progress
from lydite.study.spec import Study

FOLDER = "probes"
PROBES_VERSION = 1
#: bootstrap replicates; a warning needs no third digit
N_BOOT = 400


class ProbeFigures(Frozen):
    """What one probe reached.

    Attributes:
        name: "format-size", "low-frequency" or "shuffled-labels", see `lydite.evaluate.probes`.
        images: how many training images it learned from.
        figures: on the test split, by the slices of results; none where it could not learn.
        note: why not.
    """

    name: str
    images: int
    figures: tuple[Figure, ...] = ()
    note: str = ""

    def figure(self, metric: str, **where: str) -> Figure | None:
        """Return the figure of a slice of the test split, or None."""
        for figure in self.figures:
            if figure.metric == metric and figure.slice == {**where, "split": "test"}:
                return figure
        return None


class Probes(Frozen):
    """All probes of one study.

    Attributes:
        format: always "lydite-probes".
        version: of this format.
        study: its name.
        key: of what the probes depend on.
        created: ISO time, UTC.
        versions: of lydite and libraries.
        seed: of the choice of training images and of shuffled labels.
        data: digests of the images by role, as results have them.
        labels: of the task, the positive one last.
        seen: domains that were learned from.
        source: domains that starting detectors had learned before.
        unseen_generators: generators whose fakes were held out of all of these.
        seconds: that all of it took.
        probes: in the order of tables.
    """

    format: Literal["lydite-probes"] = "lydite-probes"
    version: Annotated[int, Field(ge=1, le=PROBES_VERSION)] = PROBES_VERSION
    study: str
    key: Sha256
    created: str
    versions: dict[str, str]
    seed: int
    data: dict[str, str]
    labels: tuple[str, str]
    seen: tuple[str, ...]
    source: tuple[str, ...] = ()
    unseen_generators: tuple[str, ...] = ()
    seconds: float
    probes: tuple[ProbeFigures, ...]


def probe_study(
    study: Study,
    train: Manifest,
    test: Manifest,
    data: Mapping[str, str],
    folder: Path,
    images: ImageStore,
    progress: Progress,
) -> Probes | None:
    """Run a study's probes, unless they were run before or it wants none.

    Args:
        study: whose images these are.
        train: what its detectors learn from, all of it.
        test: what they are measured on.
        data: digests by role.
        folder: of the study.
        images: decoded test images.
        progress: told about the work.

    Raises:
        DataError: what is kept of an earlier run is not valid.
    """
    if not study.probes:
        return None
    # scikit-learn takes a second to import
    from lydite.evaluate.probes import SHUFFLED, VERSION, run_probes

    seed = study.seeds[0]
    key = _key(study, data, seed, VERSION)
    path = folder / FOLDER / f"probes-{key[:10]}.json"
    if path.is_file():
        return read_probes(path)
    began = time.monotonic()
    made = run_probes(
        train, test, key=key, labels=study.data.labels, seed=seed, images=images, progress=progress
    )
    if not any(probe.images for probe in made):  # the files are gone: nothing to keep forever
        return None
    found = []
    for probe in made:
        figures: tuple[Figure, ...] = ()
        if probe.scores is not None:
            write_scores(path.with_name(f"{path.stem}-{probe.name}.parquet"), probe.scores)
            roles = study.data.roles
            if probe.name == SHUFFLED:
                # labels drawn at random have nothing to do with what made an image
                roles = replace(roles, unseen_generators=())
            figures = summarize(probe.scores, roles=roles, n_boot=N_BOOT)
        if probe.name == SHUFFLED:  # what made an image says nothing of a label drawn at random
            figures = tuple(f for f in figures if "generator" not in f.slice)
        found.append(
            ProbeFigures(name=probe.name, images=probe.images, figures=figures, note=probe.note)
        )
    document = Probes(
        study=study.name,
        key=key,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=versions() | {"scikit-learn": _sklearn_version()},
        seed=seed,
        data=dict(data),
        labels=study.data.labels,
        seen=study.data.seen,
        source=study.data.source,
        unseen_generators=study.data.unseen_generators,
        seconds=round(time.monotonic() - began, 2),
        probes=tuple(found),
    )
    write_json(path, document.model_dump(mode="json"))
    return document


def read_probes(path: Path) -> Probes:
    """Return the probes in a file.

    Raises:
        FileError: the file cannot be read.
        DataError: it holds something else, or a newer format.
    """
    value = read_json(path)
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > PROBES_VERSION:
        raise DataError(
            f"{path} has format version {version}; this lydite reads up to {PROBES_VERSION}. "
            "Upgrade lydite to use it."
        )
    try:
        return Probes.model_validate(value)
    except ValidationError as error:
        raise DataError(
            f"{path} holds no probes: {validation_sentence(error)} "
            "Delete it, and the study makes it anew."
        ) from error


def probes_of(
    folder: Path,
    data: Mapping[str, str],
    seen: Sequence[str],
    source: Sequence[str],
    unseen_generators: Sequence[str] = (),
) -> Probes | None:
    """Return the newest probes of the images that results were measured on, or None.

    Args:
        folder: of the study.
        data: digests by role, as the results have them.
        seen: domains that were learned from.
        source: domains that were learned before.
        unseen_generators: generators whose fakes were held out of these.

    Raises:
        DataError: a document is not valid.
    """
    roles = (tuple(seen), tuple(source), tuple(unseen_generators))
    found = [
        probes
        for path in sorted((folder / FOLDER).glob("probes-*.json"))
        if _asked((probes := read_probes(path)).data) == _asked(data)
        and (probes.seen, probes.source, probes.unseen_generators) == roles
    ]
    return max(found, key=lambda probes: probes.created, default=None)


def _key(study: Study, data: Mapping[str, str], seed: int, version: int) -> str:
    """Return the digest of everything that the probes depend on."""
    value = {
        "version": version,
        "data": _asked(data),
        "seen": list(study.data.seen),
        "source": list(study.data.source),
        "labels": list(study.data.labels),
        "seed": seed,
    }
    if study.data.unseen_generators:  # keys of studies without them stay as they were
        value["unseen_generators"] = list(study.data.unseen_generators)
    return digest(value)


def _asked(data: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of the images that probes look at."""
    return {role: data[role] for role in ("train", "test") if role in data}


def _sklearn_version() -> str:
    """Return the library's version."""
    import sklearn

    return str(sklearn.__version__)
