"""Aligned data as a whole: twins alike in all but the decoder, resuming, refusals, training."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lydite.cli import main
from lydite.data.align.make import AlignSettings, psnr
from lydite.data.align.photographs import find_photographs
from lydite.data.audit.confound import separability
from lydite.data.audit.measure import FEATURES, PROBES, measure_files
from lydite.data.decode import decode, inspect
from lydite.data.demo.photographs import make_textures, take_photograph, to_pixels
from lydite.data.manifest import Manifest
from lydite.errors import CardError, ConfigError, DataError, ResumeError
from lydite.models.autoencoder import AUTOENCODERS
from lydite.study.align import AlignPlan, align, plan_align
from lydite.study.align_sources import Reconstruction, find_sources
from lydite.training import autoencoder as tiny

KINDS = ("tiny-f8-nearest", "tiny-f4-transposed")
STEPS = 3
COUNT = 12


@pytest.fixture(scope="module", autouse=True)
def _small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "BATCH", 4)
        yield


def photograph(number: int, side: int = 104) -> np.ndarray:
    textures = make_textures(np.random.default_rng(0))
    return to_pixels(take_photograph(np.random.default_rng(number), side, textures))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of several cameras: other qualities, other sizes, a broken one, odd names."""
    folder = tmp_path_factory.mktemp("photos") / "mine"
    folder.mkdir()
    for number in range(COUNT):
        name = f"<b>\n'{number}'.jpg" if number == 3 else f"-{number}.jpg"
        pixels = photograph(number)[: 104 - number % 3 * 8]
        Image.fromarray(pixels).save(
            folder / name, "JPEG", quality=60 + number, subsampling=number % 3
        )
    (folder / "broken.jpg").write_bytes((folder / "-1.jpg").read_bytes()[:-400])
    return folder


def planned(photos: Path, out: Path, names: tuple[str, ...] = KINDS, **options: Any) -> AlignPlan:
    settings = AlignSettings.model_validate({"size": 96} | options)
    found = find_photographs(photos, seed=settings.seed)
    return plan_align(found, out, find_sources(names, STEPS), settings, steps=STEPS)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def images_of(folder: Path) -> dict[str, bytes]:
    return {
        name: data for name, data in files_of(folder).items() if name.endswith((".png", ".jpg"))
    }


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One finished folder that tests look at and none changes."""
    out = tmp_path_factory.mktemp("aligned") / "out"
    return out, align(planned(photos, out))


def test_the_manifest_has_a_domain_each_and_twins_in_one_group(
    photos: Path, made: tuple[Path, dict[str, Any]]
) -> None:
    out, value = made
    manifest = Manifest.read(out / "manifest.parquet")
    assert manifest.digest == value["digest"]
    assert value["photographs"] == COUNT
    assert value["skipped"]["files"] == [{"path": "broken.jpg", "code": "truncated"}]
    assert set(manifest.column("domain")) == {f"align-{name}" for name in KINDS}
    rows = list(manifest.rows())
    for name in KINDS:
        here = [row for row in rows if row.domain == f"align-{name}"]
        assert Counter(row.label for row in here) == {"real": COUNT, "fake": COUNT}
        assert {row.generator for row in here if row.label == "fake"} == {name}
    groups: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        groups.setdefault(row.group, set()).add((row.split, row.path))
    assert len(groups) == COUNT
    for members in groups.values():
        assert len({split for split, _ in members}) == 1
        assert len(members) == 1 + len(KINDS)
    stored = [manifest.table[name].to_pylist() for name in ("width", "height", "error")]
    assert set(stored[2]) == {None}
    assert {*stored[0], *stored[1]} == {80, 96}  # a smaller photograph has a smaller crop
    assert [f["path"] for f in value["skipped"]["files"]] == ["broken.jpg"]
    assert len(list(photos.iterdir())) == COUNT + 1


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_twins_are_saved_alike_and_no_property_of_files_tells_them_apart(
    photos: Path, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    align(planned(photos, out, encoding={"format": kind, "quality": 80}))
    manifest = Manifest.read(out / "manifest.parquet")
    twins: dict[str, set[object]] = {}
    for row in manifest.rows():
        info = inspect(row.file)
        told = (info.format, info.width, info.height, info.mode, info.quantization)
        told += (info.subsampling, info.progressive, info.has_exif, info.has_icc)
        twins.setdefault(row.group, set()).add(told)
    assert {len(found) for found in twins.values()} == {1}
    rows = list(manifest.rows())
    measures = np.stack([seen.features for seen in measure_files(rows)])
    targets = np.array([row.target for row in rows])
    _, groups = np.unique([row.group for row in rows], return_inverse=True)
    for probe in ("format", "size", "jpeg quality", "chroma subsampling", "metadata"):
        columns = [FEATURES.index(name) for name in PROBES[probe]]
        auc = separability(measures[:, columns], targets, groups)
        assert abs(auc.value - 0.5) <= 0.02, probe


def test_stopped_anywhere_the_same_call_gives_the_same_files(
    photos: Path, made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    settings = tiny.settings_of(STEPS).model_copy(update={"checkpoint_s": 0.0})
    stops = [("photographs", 5), (KINDS[0], 2), (KINDS[1], 1), ("twins", 7)]
    for what, at in stops:

        def stop(name: str, done: int, _total: int, _note: str, what=what, at=at) -> None:  # type: ignore[no-untyped-def]
            if (name, done) == (what, at):
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            plan = planned(photos, out)
            patch.setattr(tiny, "settings_of", lambda _steps: settings)
            align(plan, progress=stop)
        assert not (out / "manifest.parquet").exists()
    (out / "real" / ".lydite-abc").write_bytes(b"half a file")
    value = align(planned(photos, out))
    whole, expected = made
    assert images_of(out) == images_of(whole)
    moving = {"manifest", "manifest_sha256"}  # the manifest says where its folder is
    assert {k: v for k, v in value.items() if k not in moving} == {
        k: v for k, v in expected.items() if k not in moving
    }
    for name in KINDS:
        weights = f"autoencoders/{name}/{tiny.WEIGHTS_NAME}"
        assert (out / weights).read_bytes() == (whole / weights).read_bytes()
    assert not list(out.rglob(".lydite-*"))
    assert not list(out.rglob("checkpoint*"))


def test_a_finished_folder_is_only_looked_at_and_a_lost_or_damaged_file_made_again(
    photos: Path, made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    manifest = Manifest.read(out / "manifest.parquet", out)
    before = images_of(out)
    lost, cut, *_ = sorted({row.file for row in manifest.rows()})
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-9])
    value = align(planned(photos, out))
    assert images_of(out) == before
    monkeypatch.setattr(Reconstruction, "__call__", None)
    files = files_of(out)
    assert align(planned(photos, out)) == value
    assert files_of(out) == files


def test_an_unknown_device_is_refused_before_anything_is_written(
    photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="Unknown device 'tpu'"):
        align(planned(photos, tmp_path / "out"), device="tpu")
    assert not (tmp_path / "out").exists()


def test_users_files_stay_as_they_are(photos: Path, tmp_path: Path) -> None:
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in photos.iterdir()}
    align(planned(photos, tmp_path / "out", KINDS[:1]))
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in photos.iterdir()} == before


def test_folders_that_are_not_for_this_are_refused(
    photos: Path, made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    for out in (photos, photos / "new" / "deep"):
        with pytest.raises(DataError, match="photographs' own folder"):
            planned(photos, out)
    with pytest.raises(DataError, match="holds"):
        planned(photos, photos.parent)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        planned(photos, tmp_path / "file")
    with pytest.raises(DataError, match="which is not ours"):
        planned(photos, tmp_path)
    for changed, told in (({"size": 80}, "size: 96 there, 80 now"), ({"seed": 1}, "seed: 0")):
        with pytest.raises(ResumeError, match=told):
            planned(photos, made[0], **changed)
    with pytest.raises(ResumeError, match="autoencoders.tiny-f4"):
        planned(photos, made[0], KINDS[:1])


def test_a_photograph_that_changed_has_no_twin(photos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(photos, mine)
    plan = planned(mine, tmp_path / "out", KINDS[:1])
    Image.fromarray(photograph(99)).save(mine / "-0.jpg", "JPEG")
    skipped = align(plan)["skipped"]
    assert skipped["reasons"] == {"digest": 1, "truncated": 1}


@pytest.mark.parametrize("name", list(AUTOENCODERS))
def test_every_kind_is_tiny_and_keeps_the_size(name: str) -> None:
    network = AUTOENCODERS.get(name).build(0)
    assert 100_000 <= sum(p.numel() for p in network.parameters()) <= 550_000
    rgb = photograph(0)[:96, :80]
    call = Reconstruction(name, network.eval())
    assert call(rgb, 1).shape == rgb.shape
    assert (call(rgb, 1) == call(rgb, 1)).all()
    assert (call(rgb, 1) != call(rgb, 2)).any()  # the decoder's noise
    small = torch.zeros(1, 3, 64, 64)
    assert network.encoder(small).shape[-1] == 64 // AUTOENCODERS.get(name).factor


def test_an_autoencoder_learns(
    photos: Path, made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    reals = Manifest.read(made[0] / "manifest.parquet").select(
        label="real", domain=f"align-{KINDS[1]}"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "BATCH", 8)
        trained = tiny.train_autoencoder(KINDS[1], reals, 50, tmp_path / "ae")
    fresh = Reconstruction("fresh", AUTOENCODERS.get(KINDS[1]).build(0).eval())
    learned = Reconstruction("learned", trained)
    values = []
    for row in list(reals.rows())[:6]:
        real = decode(row.file)
        flat = np.broadcast_to(real.mean(axis=(0, 1)).round().astype(np.uint8), real.shape)
        values.append([psnr(real, x) for x in (learned(real, 0), flat, fresh(real, 0))])
    learned_db, flat_db, fresh_db = np.mean(values, axis=0)
    assert learned_db > flat_db + 2
    assert learned_db > fresh_db + 4
    # kept, found again, usable elsewhere, and refused when damaged
    again = tiny.load_autoencoder(tmp_path / "ae")
    assert all(
        (a == b).all() for a, b in zip(again.parameters(), trained.parameters(), strict=True)
    )
    (source,) = find_sources([str(tmp_path / "ae")], 1)
    assert (source.name, source.identity["kind"]) == ("ae", "tiny")
    weights = tmp_path / "ae" / tiny.WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CardError, match="not the file its record describes"):
        tiny.load_autoencoder(tmp_path / "ae")


def test_unknown_autoencoders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tiny-f8-nearest'"):
        find_sources(["tiny-f8-neares"], 1)
    with pytest.raises(ConfigError, match="Two autoencoders"):
        find_sources(["tiny-f8-nearest", "tiny-f8-nearest"], 1)
    with pytest.raises(ConfigError, match="`steps`"):
        find_sources(["tiny-f8-nearest"], 0)
    with pytest.raises(ConfigError, match="has no config.json"):
        find_sources([str(tmp_path)], 1)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet"}')
    with pytest.raises(ConfigError, match="'UNet'"):
        find_sources([str(tmp_path)], 1)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ConfigError, match="never loaded"):
        find_sources([str(tmp_path)], 1)


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    """A folder as diffusers keeps an autoencoder, under a name that is no name for files."""
    folder = tmp_path / "My VAE (v1)"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    save_file({"w": torch.zeros(1)}, folder / "diffusion_pytorch_model.safetensors")
    return folder


def stub(factor: int = 8) -> types.ModuleType:
    """Stand in for diffusers: an autoencoder that averages blocks of pixels."""

    class AutoencoderKL(torch.nn.Module):
        @classmethod
        def from_pretrained(cls, path: str, **options: Any) -> AutoencoderKL:
            assert Path(path).is_absolute()
            assert options["local_files_only"] is True
            assert options["use_safetensors"] is True
            return cls()

        def encode(self, x: torch.Tensor) -> Any:
            pooled = torch.nn.functional.avg_pool2d(x, factor)
            mode = types.SimpleNamespace(mode=lambda: pooled)
            return types.SimpleNamespace(latent_dist=mode)

        def decode(self, z: torch.Tensor) -> Any:
            return types.SimpleNamespace(
                sample=z.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
            )

    module = types.ModuleType("diffusers")
    module.AutoencoderKL = AutoencoderKL  # type: ignore[attr-defined]
    return module


def test_an_autoencoder_of_diffusers(
    photos: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(Exception, match="pip install diffusers") as caught:
        find_sources([str(vae)], 1)
    assert caught.value.code == "missing-extra"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffusers", stub())
    value = align(planned(photos, tmp_path / "out", (str(vae),)))
    assert [row["domain"] for row in value["domains"]] == ["align-my-vae-v1"]
    assert value["domains"][0]["detail"] < 0.8  # averages have little
    monkeypatch.setitem(sys.modules, "diffusers", stub(32))
    with pytest.raises(ConfigError, match="multiples of 32"):
        align(planned(photos, tmp_path / "other", (str(vae),)))


def test_the_command(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "align", str(photos), "-o", str(tmp_path / "out")]
    words += ["--steps", "2", "--limit", "8", "--json"]
    assert main([*words, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["photographs"], plan["images"]) == (8, 16)
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    value = json.loads(capsys.readouterr().out)
    files = images_of(tmp_path / "out")
    assert len(files) == value["images"] == 16
    assert sum(map(len, files.values())) == pytest.approx(plan["disk_bytes"], rel=0.5)
    assert main(words[:-1]) == 0
    assert "lydite data check" in capsys.readouterr().out
    for wrong, told in (
        (["--size", "100"], "multiple of 16"),
        (["--format", "webp"], "format"),
        (["--device", "tpu", "--dry-run"], "Unknown device 'tpu'"),
    ):
        assert main([*words[:-1], *wrong]) == 2
        assert told in capsys.readouterr().err
