"""`place: auto`: the predicted place, kept while a run is cut, and rebuilt from the card alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.transfer import Killed, changed, context, trained
from lydite.card import Architecture
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.edits import AddAdapter
from lydite.errors import ConfigError
from lydite.recipe import Stage, Step, parse_step
from lydite.transfer import adapt
from lydite.transfer.adapt import PREDICTOR, Adapt
from lydite.transfer.placement import CROPS, measure_placement

TINY = Architecture(network="lydite-small", input_size=32, config={"widths": [4, 6, 5]})
LEARN: dict[str, Any] = {"steps": 2, "batch": 4, "lr": 0.01}


def places_of(detector: Detector) -> list[str]:
    return [edit.after for edit in detector.card.edits if isinstance(edit, AddAdapter)]


@pytest.mark.parametrize("predictor", ["gradient-rank", "nsr", "probe"])
def test_auto_takes_the_predicted_place_and_replays_from_the_card(
    tiny_manifest: Manifest, tmp_path: Path, predictor: str
) -> None:
    start, here = trained(TINY), context(tiny_manifest, tmp_path)
    step = Adapt(**LEARN, place="auto", adapter="affine", predictor=predictor, flip=False)
    made = step.run(start, here)
    wanted = measure_placement(
        start, here.train, predictors=[predictor], seed=here.seed, settings=step
    ).choice(predictor)
    assert places_of(made) == [wanted]
    assert made.card.training["after"] == wanted
    assert made.card.training["predictor"] == predictor
    # the same as naming the place
    named = Adapt(**LEARN, place=wanted, adapter="affine", flip=False)
    named_made = named.run(start, context(tiny_manifest, tmp_path / "named"))
    assert changed(made, named_made) == set()
    assert "predictor" not in named_made.card.training
    made.save(tmp_path / "detector")
    loaded = Detector.load(tmp_path / "detector")
    assert (places_of(loaded), changed(made, loaded)) == ([wanted], set())


def test_predictors_may_differ_and_are_followed(
    tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_last(*args: Any, **more: Any) -> Any:
        found = measure_placement(*args, **more)
        rows = [
            row.model_copy(
                update={
                    "predictions": {
                        name: prediction.model_copy(update={"rank": 3.0 - number})
                        for name, prediction in row.predictions.items()
                    }
                }
            )
            for number, row in enumerate(found.places)
        ]
        return found.model_copy(update={"places": tuple(rows)})

    monkeypatch.setattr(adapt, "measure_placement", at_last)
    made = Adapt(**LEARN, place="auto").run(trained(TINY), context(tiny_manifest, tmp_path))
    assert places_of(made) == ["body.2"]


def test_a_run_that_goes_on_keeps_its_place(
    tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Adapt(**{**LEARN, "steps": 5}, place="auto", checkpoint_s=0.0, adapter="affine")
    start = trained(TINY)
    whole = step.run(start, context(tiny_manifest, tmp_path / "whole"))
    with pytest.raises(Killed):
        step.run(start, context(tiny_manifest, tmp_path / "cut", kill_at=3))
    monkeypatch.setattr(adapt, "measure_placement", None)  # it is not asked again
    resumed = step.run(start, context(tiny_manifest, tmp_path / "cut"))
    assert changed(whole, resumed) == set()


def test_a_plan_takes_the_middle_and_says_so() -> None:
    step = Adapt(place="auto", steps=10, batch=4)
    assert places_of(step.outline(trained(TINY))) == ["body.1"]
    stage = Stage(network="lydite-small", trained=True)
    step.check(stage)
    assert stage.images == 40 + CROPS
    (note,) = stage.notes
    assert f"{PREDICTOR} chooses the place" in note
    assert "in the middle" in note
    plain = Stage(network="lydite-small", trained=True)
    Adapt(place="middle", steps=10, batch=4).check(plain)
    assert (plain.images, plain.notes) == (40, [])


def test_auto_leaves_out_places_that_are_taken(tiny_manifest: Manifest, tmp_path: Path) -> None:
    made = trained(TINY)
    for number in range(3):
        step = Adapt(**LEARN, place="auto", adapter="affine")
        outline = step.outline(made)
        made = step.run(made, context(tiny_manifest, tmp_path / str(number)))
        assert len(places_of(outline)) == len(places_of(made)) == number + 1
    assert sorted(places_of(made)) == ["body.0", "body.1", "body.2"]
    with pytest.raises(ConfigError, match="already behind each stage"):
        Adapt(place="auto").outline(made)


def entry(step: Step) -> dict[str, Any]:
    return step.spec()["adapt"]  # type: ignore[no-any-return]


def test_the_predictor_stands_in_the_entry_only_where_it_chooses() -> None:
    assert "predictor" not in entry(Adapt(place="middle"))
    automatic = Adapt(place="auto")
    assert entry(automatic)["predictor"] == PREDICTOR
    assert parse_step(automatic.spec()) == automatic == Adapt(place="auto", predictor=PREDICTOR)
    keys = {step.key("p", {}, 0) for step in (automatic, Adapt(place="auto", predictor="fisher"))}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"place": "middle", "predictor": "nsr"}, "only `place: auto` asks a predictor"),
        ({"place": "auto", "predictor": "nrs"}, "Unknown predictor 'nrs'. Did you mean 'nsr'"),
        ({"place": "auto", "predictor": "mmd"}, "which a recipe does not have"),
    ],
)
def test_predictors_that_cannot_choose_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_step({"adapt": options})
