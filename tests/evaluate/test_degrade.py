"""Degradations by name: what names mean, the same pixels everywhere, errors that help."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from lydite.data.distort import blurred, cropped, fitted, recompressed, scaled
from lydite.errors import ConfigError
from lydite.evaluate.degrade import CHAINS, GRIDS, KINDS, Degradation, degrade, named, parse

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
IMAGE.setflags(write=False)
KEY = "ab" * 32
EVERY = sorted({*GRIDS["standard"], *GRIDS["quick"], *CHAINS, "fit-40", "noise-12.5+jpeg-50"})


def test_names_do_what_they_say() -> None:
    expected = {
        "jpeg-60": recompressed(IMAGE, 60),
        "webp-60": recompressed(IMAGE, 60, "WEBP"),
        "resize-0.5": scaled(IMAGE, 0.5),
        "blur-1.5": blurred(IMAGE, 1.5),
        "crop-0.5": cropped(IMAGE, 0.5),
        "fit-32": fitted(IMAGE, 32),
    }
    for name, pixels in expected.items():
        assert np.array_equal(degrade(IMAGE, name, KEY), pixels), name
    assert {name.split("-")[0] for name in expected} == set(KINDS) - {"noise"}


def test_chains_are_their_parts_in_order() -> None:
    both = recompressed(scaled(IMAGE, 0.5), 75)
    assert np.array_equal(degrade(IMAGE, "resize-0.5+jpeg-75", KEY), both)
    assert not np.array_equal(degrade(IMAGE, "jpeg-75+resize-0.5", KEY), both)
    sent = degrade(IMAGE, "social", KEY)
    shot = degrade(sent, "screenshot", KEY)
    assert np.array_equal(degrade(IMAGE, "repost", KEY), degrade(shot, "social", KEY))
    assert shot.shape == (41, 54, 3)


def test_what_changes_nothing_is_the_image_itself() -> None:
    assert degrade(IMAGE, "none", KEY) is IMAGE
    assert degrade(IMAGE, "resize-1.0", KEY) is IMAGE
    assert np.array_equal(degrade(IMAGE, "crop-1", KEY), IMAGE)


def test_noise_depends_on_image_and_name_and_on_nothing_else() -> None:
    once = degrade(IMAGE, "noise-5", KEY)
    degrade(IMAGE, "noise-5", "cd" * 32)
    np.random.default_rng().standard_normal(3)
    assert np.array_equal(once, degrade(IMAGE, "noise-5.0", KEY))
    assert not np.array_equal(once, degrade(IMAGE, "noise-5", "cd" * 32))
    twice = degrade(IMAGE, "noise-5+noise-5", KEY).astype(float) - IMAGE
    again = degrade(once, "noise-5", KEY).astype(float) - IMAGE
    assert not np.array_equal(twice, again)  # the second draw is not the first one again


def test_another_process_gives_the_same_pixels() -> None:
    code = (
        "import hashlib, numpy as np\n"
        "from lydite.evaluate.degrade import degrade\n"
        "image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)\n"
        f"for name in {EVERY!r}:\n"
        f"    print(hashlib.sha256(degrade(image, name, {KEY!r}).tobytes()).hexdigest())\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mine = [hashlib.sha256(degrade(IMAGE, name, KEY).tobytes()).hexdigest() for name in EVERY]
    assert said.stdout.split() == mine
    assert len(set(mine)) == len(mine)


def test_names_go_to_data_and_back_and_are_written_in_one_way() -> None:
    for name in EVERY:
        made = parse(name)
        assert made.name == name
        assert parse(made.name) == made
        assert Degradation.model_validate(made.model_dump(mode="json")) == made
    assert parse("blur-1.0 + jpeg-075").name == "blur-1+jpeg-75"
    assert parse("resize-0.12345678").operations[0].amount == 0.123457


def test_lists_are_written_out_once() -> None:
    assert named(["quick"]) == GRIDS["quick"]
    assert named(["none", "jpeg-75.0", "quick", "jpeg-75"])[:2] == ("jpeg-75", "resize-0.75")
    assert len(named(["standard"])) == 15
    assert named([]) == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jpg-75", "Unknown degradation 'jpg-75'. Did you mean 'jpeg-75'?"),
        ("socail", "Did you mean 'social'?"),
        ("resize-0.5+jpgg-75", "Unknown degradation 'jpgg-75'"),
        ("", "Unknown degradation ''"),
        ("jpeg-0", "'jpeg-0' needs a whole number from 1 to 100, its quality"),
        ("jpeg-75.5", "Write for instance jpeg-75"),
        ("jpeg", "needs a whole number"),
        ("resize-9", "needs a number from 0.1 to 4, its factor"),
        ("noise-nan", "needs a number from 0.1 to 128"),
        ("blur-inf", "needs a number from 0.1 to 20"),
        ("crop-x", "its share of each side"),
    ],
)
def test_mistakes_are_explained(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(name)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["jpeg-7_5", "jpeg- 75", "resize-\u0662", "jpeg-+75", "blur-1e0"])
def test_amounts_are_plain_numbers(name: str) -> None:
    with pytest.raises(ConfigError, match="needs a"):
        parse(name)


def test_a_list_is_no_part_of_a_chain() -> None:
    with pytest.raises(ConfigError, match="is a list of degradations"):
        parse("quick+jpeg-75")
