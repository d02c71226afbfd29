"""Adapter packs: for one base only, checked byte by byte, merged and divided without loss."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lydite
from helpers.packs import hand_made_pack
from lydite import pack_folder
from lydite.card import ONNX_NAME, Card, ConformalBand, Preprocess, ScoreMeaning, load_card
from lydite.data.preprocess import probability, verdict
from lydite.delta import MAGIC
from lydite.errors import CardError, ConfigError, FileError, LyditeError
from lydite.files import sha256_bytes
from lydite.pack import ADAPTER_NAME, DELTA_NAME, PACK_NAME, Pack, pack_json
from lydite.pack_folder import load_pack, load_packs, save_merged, save_pack, without
from lydite.predictor import Predictor

PHOTO = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
#: weights of the hand-made network as packs change them: towards fake, and towards real
FAKE = np.array([[0.5, -1.0, 0.25], [4.0, 2.0, 1.0]])
REAL = np.array([[9.0, -1.0, 0.25], [-0.75, 2.0, 1.0]])

MakePack = Callable[..., Pack]


@pytest.fixture
def base(tiny_detector: Path) -> tuple[Card, bytes]:
    return load_card(tiny_detector), (tiny_detector / ONNX_NAME).read_bytes()


@pytest.fixture
def make(base: tuple[Card, bytes], make_onnx: Callable[..., Any]) -> MakePack:
    def one(name: str = "one", weight: np.ndarray = FAKE, **changes: Any) -> Pack:
        full = make_onnx(weight=weight).SerializeToString()
        return hand_made_pack(*base, full, name, **changes)

    return one


@pytest.fixture
def folder(make: MakePack, tmp_path: Path) -> Path:
    save_pack(make(), tmp_path / "one")
    return tmp_path / "one"


def rewrite(folder: Path, **changes: Any) -> None:
    """Change fields of a pack's JSON; a value of None takes the field out."""
    file = folder / PACK_NAME
    value = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


# -------------------------------------------------------------------------------- one pack


def test_applying_gives_the_very_file_and_its_own_score(
    base: tuple[Card, bytes], make: MakePack, make_onnx: Callable[..., Any]
) -> None:
    card, onnx = make().apply(*base)
    assert onnx == make_onnx(weight=FAKE).SerializeToString()
    assert card.files[ONNX_NAME].sha256 == sha256_bytes(onnx)
    assert (card.score.threshold, card.parent) == (0.3, base[0].key)
    assert (card.name, card.preprocess) == ("tiny + one", base[0].preprocess)
    assert card.steps == (*base[0].steps, {"adapt": {"place": "last"}})


def test_a_folder_comes_back_as_it_was(make: MakePack, folder: Path) -> None:
    pack = load_pack(folder)
    assert pack == make()
    assert pack.size_bytes == sum(file.stat().st_size for file in folder.iterdir())


def test_another_base_is_refused_and_both_are_named(
    base: tuple[Card, bytes], make: MakePack, make_onnx: Callable[..., Any]
) -> None:
    card, onnx = base
    other = make_onnx(weight=REAL).SerializeToString()
    with pytest.raises(CardError) as caught:
        make().apply(card.model_copy(update={"name": "someone else"}), other)
    message = str(caught.value)
    assert "belongs to the detector tiny" in message and "someone else" in message
    assert sha256_bytes(onnx)[:12] in message and sha256_bytes(other)[:12] in message
    cut = card.model_copy(update={"preprocess": Preprocess(size=32, tiles=1)})
    with pytest.raises(CardError, match="other preprocessing"):
        make().apply(cut, onnx)


def test_a_delta_that_gives_another_file_is_refused(
    base: tuple[Card, bytes], make: MakePack
) -> None:
    pack = make()
    wrong = Pack(pack.card, pack.files | {DELTA_NAME: make("two", REAL).files[DELTA_NAME]})
    with pytest.raises(CardError, match="does not give the model.onnx"):
        wrong.apply(*base)
    broken = Pack(pack.card, pack.files | {DELTA_NAME: MAGIC + b"\xff"})
    with pytest.raises(CardError, match="pack one is damaged"):
        broken.apply(*base)


@pytest.mark.parametrize("what", ["foreign operator", "other shape", "not a model"])
def test_the_composed_file_passes_the_guard_of_every_model(
    base: tuple[Card, bytes], make_onnx: Callable[..., Any], what: str
) -> None:
    from onnx import helper

    foreign = helper.make_node("Relu", ["f"], ["unused"], domain="com.example")
    full = {
        "foreign operator": lambda: make_onnx(nodes=(foreign,)).SerializeToString(),
        "other shape": lambda: make_onnx(size=64).SerializeToString(),
        "not a model": lambda: b"\xff" * 99,
    }[what]()
    with pytest.raises(CardError):
        Predictor.from_bytes(*base, packs=[hand_made_pack(*base, full)])


# ------------------------------------------------------------------------- hostile folders


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 3}, "Upgrade lydite"),
        ({"format": "lydite-detector"}, "not that of a lydite adapter pack"),
        ({"surprise": 1}, "surprise"),
        ({"name": "../x"}, "`name`"),
        ({"name": "Upper"}, "`name`"),
        ({"name": "base"}, "no pack can be called 'base'"),
        ({"files": {"../model.delta": {"sha256": "0" * 64, "size_bytes": 1}}}, "files"),
        ({"files": {}}, "lacks"),
        ({"edits": [{"op": "run_code"}]}, "edits"),
        ({"score": {"temperature": -1}}, "temperature"),
        ({"composed": None}, "composed"),
        ({"base": {"name": "tiny"}}, "base"),
    ],
)
def test_cards_that_are_wrong_are_refused(
    folder: Path, changes: dict[str, Any], reason: str
) -> None:
    rewrite(folder, **changes)
    with pytest.raises(CardError, match=reason):
        load_packs(folder)


def test_a_merged_pack_of_a_newer_version_is_refused(folder: Path) -> None:
    merged = {"format": "lydite-packs", "version": 2, "members": {"other": "0" * 64}}
    (folder / PACK_NAME).write_text(json.dumps(merged))
    with pytest.raises(CardError, match=r"version 2; this lydite reads up to 1"):
        load_packs(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": []}', "[" * 100_000, '{"format": "lydite-pack"}', "\x00"]
)
def test_json_that_is_none(folder: Path, text: str) -> None:
    (folder / PACK_NAME).write_text(text)
    with pytest.raises(CardError, match=PACK_NAME):
        load_packs(folder)


@pytest.mark.parametrize("name", [DELTA_NAME, ADAPTER_NAME])
def test_damaged_missing_and_linked_files_are_refused(folder: Path, name: str) -> None:
    file = folder / name
    sound = file.read_bytes()
    for data in (sound[:-1], sound + b"x", bytes([sound[0] ^ 1]) + sound[1:]):
        file.write_bytes(data)
        with pytest.raises(CardError, match="SHA-256"):
            load_packs(folder)
    file.unlink()
    with pytest.raises(CardError, match=f"lacks the file {name}"):
        load_packs(folder)
    elsewhere = folder.parent / "elsewhere"
    elsewhere.write_bytes(sound)
    file.symlink_to(elsewhere)
    with pytest.raises(CardError, match=f"lacks the file {name}"):
        load_packs(folder)


def test_sizes_are_limited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_folder, "MAX_FILE_BYTES", 5)
    with pytest.raises(FileError, match="larger than the 5 bytes"):
        load_packs(folder)
    (folder / PACK_NAME).write_text(" " * 2_000_000)
    with pytest.raises(FileError, match="larger than"):
        load_packs(folder)


def test_noise_in_any_file_ends_in_our_own_error(
    folder: Path, base: tuple[Card, bytes], make: MakePack
) -> None:
    draw = np.random.default_rng(0)
    sound = make()
    for name in (PACK_NAME, DELTA_NAME):
        content = (folder / name).read_bytes()
        for _ in range(60):
            data = bytearray(content)
            for place in draw.integers(0, len(data), 2):
                data[place] = int(draw.integers(0, 256))
            (folder / name).write_bytes(data)
            try:
                pack = load_pack(folder)
                # a changed word or number of the card may still make sense, a changed file never
                assert name == PACK_NAME or bytes(data) == content
                assert pack.files == sound.files
                pack.apply(*base)
            except LyditeError as error:
                assert str(error)
        (folder / name).write_bytes(content)
    assert load_pack(folder) == sound


def test_folders_that_are_no_packs(tmp_path: Path, tiny_detector: Path) -> None:
    for place in (tmp_path / "nothing", tiny_detector):
        with pytest.raises(CardError, match="no pack.json"):
            load_packs(place)


# ------------------------------------------------------------------------ merged and divided


@pytest.fixture
def merged(make: MakePack, tmp_path: Path) -> Path:
    save_merged([make("two", REAL), make("one")], tmp_path / "both")
    return tmp_path / "both"


def test_members_come_back_in_order_and_unchanged(merged: Path, make: MakePack) -> None:
    assert load_packs(merged) == [make("two", REAL), make("one")]
    assert load_pack(merged / "one") == make("one")
    with pytest.raises(CardError, match="several packs: two, one"):
        load_pack(merged)


def test_removing_leaves_the_others_as_they_are(merged: Path, make: MakePack) -> None:
    packs = load_packs(merged)
    assert without(packs, "one") == [make("two", REAL)]
    with pytest.raises(ConfigError, match="Did you mean 'one'"):
        without(packs, "onee")
    with pytest.raises(ConfigError, match="only member"):
        without([make("one")], "one")


def test_merging_needs_one_base_and_different_names(
    make: MakePack, base: tuple[Card, bytes], tmp_path: Path
) -> None:
    other = base[0].model_copy(update={"name": "someone else"})
    foreign = make("two").card.base.model_copy(update={"onnx": "2" * 64, "name": other.name})
    with pytest.raises(ConfigError, match="tiny .* and two to someone else"):
        save_merged([make("one"), make("two", base=foreign)], tmp_path / "out")
    with pytest.raises(ConfigError, match="Two packs are called one"):
        save_merged([make("one"), make("one", REAL)], tmp_path / "out")
    with pytest.raises(ConfigError, match="1 to 32 members"):
        save_merged([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(merged: Path, make: MakePack, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    for place in (merged, tmp_path, tmp_path / "link"):
        with pytest.raises(FileError, match="there already"):
            save_merged([make("one")], place)
        with pytest.raises(FileError, match="there already"):
            save_pack(make("one"), place)
    assert len(load_packs(merged)) == 2


def test_an_exchanged_or_missing_member_is_refused(merged: Path, make: MakePack) -> None:
    shutil.rmtree(merged / "one")
    with pytest.raises(CardError, match="lacks the member one"):
        load_packs(merged)
    save_pack(make("one", limits=("another",)), merged / "one")
    with pytest.raises(CardError, match="not the pack that"):
        load_packs(merged)
    (merged / "one" / PACK_NAME).write_bytes((merged / PACK_NAME).read_bytes())
    with pytest.raises(CardError, match="not a valid pack"):
        load_packs(merged)


@pytest.mark.parametrize("members", [{}, {"../one": "0" * 64}, {"one": "short"}, ["one"]])
def test_lists_of_members_that_are_wrong(merged: Path, members: Any) -> None:
    rewrite(merged, members=members)
    with pytest.raises(CardError, match="members"):
        load_packs(merged)


# ------------------------------------------------------------------------------- prediction


def test_the_surest_of_a_fake_speaks(
    tiny_detector: Path, merged: Path, base: tuple[Card, bytes], make: MakePack
) -> None:
    alone = {"base": Predictor.from_bytes(*base)}
    alone |= {p.card.name: Predictor.from_bytes(*p.apply(*base)) for p in load_packs(merged)}
    together = lydite.load(tiny_detector, packs=[merged])
    speakers = set()
    for shade in (0, 60, 100, 120, 128, 140, 200, 255):
        image = np.full((40, 40, 3), (shade, 255 - shade // 2, 128), np.uint8)
        each = {name: predictor.predict(image) for name, predictor in alone.items()}
        best = max(each, key=lambda name: each[name].p_fake or 0)
        found = together.predict(image)
        speakers.add(found.by)
        assert found.by == best
        assert (found.p_fake, found.score) == (each[best].p_fake, each[best].score)
        assert found.verdict == each[best].verdict
        assert together.score(image) == found.score
        assert all(prediction.by is None for prediction in each.values())
    assert len(speakers) > 1


def test_verdict_goes_by_the_speakers_own_threshold_and_band(
    base: tuple[Card, bytes], make: MakePack
) -> None:
    onnx_of_base = np.array([[0.5, -1.0, 0.25], [-0.75, 2.0, 1.0]])
    meaning = ScoreMeaning(threshold=-2.0, temperature=3.0, band=(0.1, 0.99), rule="wide")
    pack = make("wide", onnx_of_base, score=meaning)
    predictor = Predictor.from_bytes(*base, packs=[pack])
    image = np.full((40, 40, 3), 128, np.uint8)
    found = predictor.predict(image)
    assert Predictor.from_bytes(*base).predict(image).verdict == "real"
    assert (found.by, found.verdict) == ("wide", "unsure")
    assert found.score is not None
    p_fake = float(probability(found.score, meaning))
    assert (found.p_fake, found.verdict) == (p_fake, verdict(p_fake, meaning))


def test_of_equals_the_base_speaks(base: tuple[Card, bytes], make: MakePack) -> None:
    same = make("same", np.array([[0.5, -1.0, 0.25], [-0.75, 2.0, 1.0]]), score=base[0].score)
    assert Predictor.from_bytes(*base, packs=[same]).predict(PHOTO).by == "base"


def test_an_image_is_decoded_and_cut_once(
    base: tuple[Card, bytes], make: MakePack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lydite import predictor as module

    calls = []
    prepare = module.prepare
    monkeypatch.setattr(module, "prepare", lambda *a: calls.append("cut") or prepare(*a))
    Predictor.from_bytes(*base, packs=[make("one"), make("two", REAL)]).predict(PHOTO)
    assert calls == ["cut"]


def test_without_packs_the_json_is_as_before(tiny_detector: Path, folder: Path) -> None:
    plain = lydite.load(tiny_detector).predict(PHOTO).to_dict()
    assert "by" not in plain
    with_pack = lydite.load(tiny_detector, packs=[folder]).predict(PHOTO).to_dict()
    assert with_pack.keys() - plain.keys() == {"by"}


def test_one_name_twice_is_refused(tiny_detector: Path, folder: Path, merged: Path) -> None:
    with pytest.raises(ConfigError, match="Two packs are called one"):
        lydite.load(tiny_detector, packs=[folder, merged])


def test_prediction_with_packs_needs_no_torch(
    tiny_detector: Path, merged: Path, tmp_path: Path
) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(file)
    words = ["predict", "--detector", str(tiny_detector), "--pack", str(merged), str(file)]
    code = f"""
import sys
from lydite.cli import main
assert main({words!r}) == 0
assert main(["pack", "show", {str(merged)!r}]) == 0
heavy = {{"torch", "pyarrow", "onnx", "sklearn", "scipy", "matplotlib", "safetensors", "filelock"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_pack_says_the_lowest_version_that_knows_its_band(make: MakePack, tmp_path: Path) -> None:
    plain = make()
    assert json.loads(pack_json(plain.card))["version"] == 1
    band = ConformalBand(alpha=0.05, low=-1.0, high=2.0, n_real=19, n_fake=19)
    meaning = plain.card.score.model_copy(update={"conformal": band})
    promising = make(score=meaning)
    assert json.loads(pack_json(promising.card))["version"] == 2
    save_pack(promising, tmp_path / "promising")
    assert load_pack(tmp_path / "promising").card.score.conformal == band


def test_json_leaves_out_what_says_nothing(make: MakePack) -> None:
    value = json.loads(pack_json(make().card))
    assert not {"ranges", "limits", "measured", "edits"} & value.keys()
    assert list(value)[:3] == ["format", "version", "name"]


def test_a_pack_takes_the_place_of_a_single_pack_alone(make: MakePack, tmp_path: Path) -> None:
    place = tmp_path / "one"
    save_pack(make("one"), place)
    save_pack(make("two"), place, replace=True)
    assert [pack.card.name for pack in load_packs(place)] == ["two"]
    (place / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match="notes.txt"):
        save_pack(make("one"), place, replace=True)
    assert (place / "notes.txt").read_text() == "mine"
    save_merged([make("a"), make("b")], tmp_path / "merged")
    with pytest.raises(FileError, match="would be gone"):
        save_pack(make("one"), tmp_path / "merged", replace=True)
    assert len(load_packs(tmp_path / "merged")) == 2
