"""Protocols: which folds they make of a manifest, what is never learned, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lydite.data.manifest import SCHEMA, Manifest, from_columns
from lydite.errors import ConfigError, DataError
from lydite.study.expand import expand
from lydite.study.families import families_of, family_of
from lydite.study.folds import of_fold
from lydite.study.images import load_data
from lydite.study.protocol import Protocol
from lydite.study.spec import Study

#: generators of each domain's fakes
DOMAINS = {
    "faces": ["stargan", "sd14"],
    "horses": ["cyclegan"],
    "scenes": ["glide", "stargan", "sdxl"],
}


def row(domain: str, label: str, generator: str, split: str, number: int = 0) -> dict[str, object]:
    name = f"{domain}-{label}-{generator}-{split}-{number}"
    return {
        "path": name, "sha256": name, "label": label, "generator": generator, "domain": domain,
        "split": split, "group": name, "bytes": 1,
    }  # fmt: skip


def manifest_of(folder: Path, *further: dict[str, object]) -> Manifest:
    rows = [
        row(domain, label, generator, split)
        for domain, generators in DOMAINS.items()
        for split in ("train", "val", "test")
        for label, names in (("real", ["camera"]), ("fake", generators))
        for generator in names
    ]
    rows += further
    return from_columns({name: [r.get(name) for r in rows] for name in SCHEMA.names}, folder)


def study_of(protocol: dict[str, Any] | None, folder: Path, **changes: object) -> Study:
    value = {
        "name": "p",
        "data": {"manifest": folder / "m.parquet"},
        "protocol": protocol,
        "recipes": [{"name": "BL", "start": {"detector": "runs/without-{held}/from-{seen}"}}],
    }
    return Study.model_validate(value | changes)


def expanded(protocol: dict[str, Any], folder: Path, *further: dict[str, object]) -> Study:
    manifest = manifest_of(folder, *further)
    manifest.write(folder / "m.parquet")
    return expand(study_of(protocol, folder), manifest)


def learned(study: Study, folder: Path) -> dict[str, set[tuple[str, str, str]]]:
    """Return (domain, label, generator) of what each fold trains, validates or replays on."""
    found = {}
    for fold in study.folds:
        parts = load_data(of_fold(study, fold).data, folder).learning
        found[fold.name] = {
            triple
            for part in (parts.train, parts.val)
            for triple in zip(*map(part.column, ("domain", "label", "generator")), strict=True)
        }
    return found


def test_each_domain_is_held_out_once_and_never_learned_there(tmp_path: Path) -> None:
    study = expanded({"kind": "leave-one-domain-out"}, tmp_path)
    assert [fold.held for fold in study.folds] == [({"domain": d},) for d in DOMAINS]
    for name, found in learned(study, tmp_path).items():
        held = name.removeprefix("without-")
        assert {domain for domain, _, _ in found} == set(DOMAINS) - {held}
    first = of_fold(study, study.folds[0])
    assert str(first.recipes[0].start.detector) == "runs/without-faces/from-horses+scenes"  # type: ignore[union-attr]
    assert first.protocol is None


def test_each_generator_is_held_out_once_and_its_fakes_never_learned(tmp_path: Path) -> None:
    study = expanded({"kind": "leave-one-generator-out"}, tmp_path)
    every = sorted({g for names in DOMAINS.values() for g in names})
    assert [fold.unseen_generators for fold in study.folds] == [(g,) for g in every]
    found = learned(study, tmp_path)
    for fold in study.folds:
        (held,) = fold.unseen_generators
        mine = found[fold.name]
        assert held not in {generator for _, _, generator in mine}
        assert fold.held == tuple(
            {"domain": d, "generator": held} for d, names in DOMAINS.items() if held in names
        )
        # all other fakes are learned, each with the real images of its domain
        assert {(d, g) for d, label, g in mine if label == "fake"} == {
            (d, g) for d, names in DOMAINS.items() for g in names if g != held
        }
        assert {d for d, label, _ in mine if label == "real"} == set(fold.seen)
    # nothing is left of horses without its only generator: its photographs are only tested on
    assert study.folds[0].seen == ("faces", "scenes")


def test_a_held_out_picture_filed_under_another_name_is_not_learned(tmp_path: Path) -> None:
    copy = row("faces", "fake", "sd14", "train", 9) | {"sha256": "scenes-fake-glide-train-0"}
    study = expanded({"kind": "leave-one-generator-out", "hold_out": ["glide"]}, tmp_path, copy)
    parts = load_data(of_fold(study, study.folds[0]).data, tmp_path).learning
    assert "scenes-fake-glide-train-0" not in parts.train.column("sha256")
    assert "faces-fake-sd14-train-0" in parts.train.column("sha256")


def test_a_photograph_from_a_source_called_like_a_generator_stays(tmp_path: Path) -> None:
    photo = row("faces", "real", "glide", "train")
    study = expanded({"kind": "leave-one-generator-out", "hold_out": ["glide"]}, tmp_path, photo)
    assert ("faces", "real", "glide") in learned(study, tmp_path)["without-glide"]


def test_families_are_held_out_whole(tmp_path: Path) -> None:
    study = expanded({"kind": "leave-one-family-out"}, tmp_path)
    assert {fold.name: fold.unseen_generators for fold in study.folds} == {
        "without-diffusion": ("glide", "sd14", "sdxl"),
        "without-gan": ("cyclegan", "stargan"),
    }
    for name, found in learned(study, tmp_path).items():
        families = {family_of(g) for _, label, g in found if label == "fake"}
        assert families == {"gan", "diffusion"} - {name.removeprefix("without-")}
    own = {"kind": "leave-one-family-out", "families": {"latent": ["SD*"]}, "hold_out": ["latent"]}
    (fold,) = expanded(own, tmp_path).folds
    assert fold.unseen_generators == ("sd14", "sdxl")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("progan", "gan"), ("StarGAN_v2", "gan"), ("stylegan2-ada", "gan"), ("BigGAN 256", "gan"),
        ("stable_diffusion_dreamstudio", "diffusion"), ("sd1-pets", "diffusion"),
        ("dalle2", "diffusion"), ("dalle_mini", "autoregressive"), ("ldm", "diffusion"),
        ("flux2-tinyae", "autoencoder"), ("flux1", "diffusion"), ("sd-vae", "autoencoder"),
        ("ADM", "diffusion"), ("glid3xl", "diffusion"), ("imle", "perceptual-loss"),
        ("deepfake", "face-manipulation"), ("organic", None), ("camera", None),
    ],
)  # fmt: skip
def test_well_known_names_have_their_family(name: str, family: str | None) -> None:
    assert family_of(name) == family


def test_a_generator_without_family_is_named() -> None:
    with pytest.raises(DataError, match=r"family is known of the generators mine.*NAME: \[mine\]"):
        families_of(["mine", "stargan"], {})
    assert families_of(["mine", "stargan"], {"own": ["mi?e"]}) == {
        "gan": ["stargan"],
        "own": ["mine"],
    }


def test_pairwise_learns_each_domain_alone(tmp_path: Path) -> None:
    study = expanded({"kind": "pairwise", "test_only": ["scenes"]}, tmp_path)
    assert [(fold.name, fold.seen) for fold in study.folds] == [
        ("on-faces", ("faces",)),
        ("on-horses", ("horses",)),
    ]
    # what is only tested on is measured, and stands in no mean
    assert study.folds[0].held == ({"domain": "horses"},)


@pytest.mark.parametrize("kind", ["seen-unseen", "real-against-real"])
def test_one_fold_learns_what_is_given(kind: str, tmp_path: Path) -> None:
    (fold,) = expanded({"kind": kind, "seen": ["faces"]}, tmp_path).folds
    assert fold.seen == ("faces",)
    assert fold.held == ({"domain": "horses"}, {"domain": "scenes"})


def test_only_what_has_test_images_is_held_out(tmp_path: Path) -> None:
    early = [row("early", label, "dalle3", "train") for label in ("real", "fake")]
    (fold,) = expanded({"kind": "seen-unseen", "seen": ["faces"]}, tmp_path, *early).folds
    assert fold.held == ({"domain": "horses"}, {"domain": "scenes"})
    with pytest.raises(DataError, match=r"holds nothing out.*faces, horses, scenes.*`seen`"):
        expanded({"kind": "seen-unseen", "seen": list(DOMAINS)}, tmp_path, *early)


def test_domains_of_test_images_alone_are_asked_for(tmp_path: Path) -> None:
    further = [row("late", label, "dalle3", "test") for label in ("real", "fake")]
    with pytest.raises(DataError, match=r"late has no real image in its train.*`test_only`"):
        expanded({"kind": "leave-one-domain-out"}, tmp_path, *further)
    study = expanded({"kind": "leave-one-domain-out", "test_only": ["late"]}, tmp_path, *further)
    assert all("late" not in fold.seen and len(fold.held) == 1 for fold in study.folds)
    assert len(study.folds) == 3


def test_an_image_on_both_sides_of_a_fold_is_refused(tmp_path: Path) -> None:
    copy = row("faces", "real", "camera", "train", 9) | {"sha256": "scenes-real-camera-test-0"}
    with pytest.raises(DataError, match="Fold without-scenes: an image in the train split of face"):
        expanded({"kind": "leave-one-domain-out"}, tmp_path, copy)


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ({"kind": "leave-one-domain-out", "domains": ["face"]}, "`domains`.*Did you mean 'faces'"),
        ({"kind": "pairwise", "test_only": ["scene"]}, "`test_only`.*Did you mean 'scenes'"),
        ({"kind": "seen-unseen", "seen": ["hors"]}, "`seen`.*Did you mean 'horses'"),
        (
            {"kind": "leave-one-generator-out", "hold_out": ["stragan"]},
            "Unknown generator 'stragan'. Did you mean 'stargan'",
        ),
        (
            {"kind": "leave-one-family-out", "hold_out": ["gans"]},
            "Unknown family 'gans'. Did you mean 'gan'",
        ),
        (
            {"kind": "leave-one-family-out", "families": {"x": ["slide"]}},
            "`families`.*Did you mean 'glide'",
        ),
        ({"kind": "pairwise", "domains": ["faces"]}, "two domains at least. Found: faces"),
    ],
)
def test_what_does_not_fit_the_data_is_named(
    protocol: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        expanded(protocol, tmp_path)


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ({"kind": "leave-one-domains-out"}, "Did you mean 'leave-one-domain-out'"),
        ({"kind": "seen-unseen"}, "needs `seen`"),
        ({"kind": "pairwise", "seen": ["a"]}, "takes no `seen`"),
        ({"kind": "pairwise", "hold_out": ["a"]}, "takes no `hold_out`"),
        ({"kind": "pairwise", "families": {"a": ["b"]}}, "takes no `families`"),
        ({"kind": "pairwise", "domains": ["a", "a"]}, "names one twice"),
        ({"kind": "pairwise", "domains": ["a"], "test_only": ["a"]}, "both `domains` and"),
    ],
)
def test_options_that_do_not_fit_are_refused(protocol: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Protocol.model_validate(protocol)


def test_an_expanded_study_may_be_given_again_but_not_other_folds(tmp_path: Path) -> None:
    study = expanded({"kind": "pairwise"}, tmp_path)
    again = Study.model_validate(study.model_dump(mode="json"))
    assert expand(again, manifest_of(tmp_path)) == study
    other = study.model_copy(update={"folds": study.folds[:1]})
    with pytest.raises(ConfigError, match="either `folds` or `protocol`"):
        expand(other, manifest_of(tmp_path))
    with pytest.raises(ValueError, match="or a `protocol`"):
        study_of({"kind": "pairwise"}, tmp_path, data={"manifest": "m", "seen": ["faces"]})


def test_names_of_folds_fit_folders(tmp_path: Path) -> None:
    further = [
        row(domain, label, "dalle3", split)
        for domain in ("a/b", "A b")
        for label in ("real", "fake")
        for split in ("train", "val", "test")
    ]
    names = [fold.name for fold in expanded({"kind": "pairwise"}, tmp_path, *further).folds]
    assert names[:2] == ["on-A-b", "on-a-b-2"]


def test_an_unknown_generator_of_a_fold_by_hand_is_named(tmp_path: Path) -> None:
    expanded({"kind": "pairwise"}, tmp_path)
    data = {"manifest": tmp_path / "m.parquet", "seen": ["faces"], "unseen_generators": ["sd15"]}
    study = study_of(None, tmp_path, data=data)
    with pytest.raises(DataError, match="`unseen_generators`.*Did you mean 'sd14'"):
        load_data(study.data, tmp_path)
