"""What running one recipe notes down of its steps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lydite.card import Architecture
from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.errors import ConfigError, DataError
from lydite.evaluate.calibrate import calibrate
from lydite.evaluate.score import score_detector
from lydite.recipe import Recipe
from lydite.study.cache import Cache
from lydite.study.execute import Learning, Options, execute


@pytest.mark.filterwarnings("ignore:The validation AUC")
def test_a_step_does_not_count_the_training_before_it(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    config = {"widths": [8]}
    start = Detector.start(Architecture(network="lydite-small", input_size=64, config=config))
    before = {"seconds": 1e6, "peak_bytes": 10**15, "trainable_parameters": 9}
    start.evolve(steps=({"train": {}},), training=before).save(tmp_path / "trained")
    recipe = Recipe.model_validate(
        {
            "name": "CQ",
            "start": {"detector": tmp_path / "trained"},
            "steps": [{"quantize": {"scheme": "linear-int8"}}],
        }
    )
    one = tiny_manifest.select(domain="one")
    learning = Learning(one.select(split="train"), one.select(split="val"))
    (cost,) = execute(recipe, learning, Cache(tmp_path / "cache"), Options()).steps
    assert cost.seconds is not None
    assert cost.seconds < 1000
    assert (cost.trainable_parameters, cost.peak_bytes) == (None, None)


def test_a_step_that_trains_says_what_that_took(tiny_manifest: Manifest, tmp_path: Path) -> None:
    one = tiny_manifest.select(domain="one")
    learning = Learning(one.select(split="train"), one.select(split="val"))
    recipe = Recipe.model_validate(
        {
            "name": "head",
            "start": {"network": "lydite-small", "config": {"widths": [2], "blocks": 0}},
            "steps": [
                {"train": {"steps": 1, "batch": 4}},
                {"finetune": {"steps": 1, "batch": 4, "layers": "head"}},
            ],
        }
    )
    cache = Cache(tmp_path / "cache")
    whole, head = execute(recipe, learning, cache, Options()).steps
    assert whole.trainable_parameters == whole.parameters
    assert head.trainable_parameters is not None
    assert 0 < head.trainable_parameters < whole.parameters
    assert min(whole.peak_bytes or 0, head.peak_bytes or 0) > 1_000_000
    again = execute(recipe, learning, cache, Options()).steps
    assert [(s.cached, s.peak_bytes) for s in again] == [
        (True, s.peak_bytes) for s in (whole, head)
    ]


def test_what_switches_say_of_themselves_is_noted(tiny_manifest: Manifest, tmp_path: Path) -> None:
    one = tiny_manifest.select(domain="one")
    learning = Learning(one.select(split="train"), one.select(split="val"))
    switches = {"swad": {"every": 1, "patience": 1, "overfit": 9, "crops": 4}, "robust": 0.1}
    recipe = Recipe.model_validate(
        {
            "name": "switches",
            "start": {"network": "lydite-small", "config": {"widths": [2], "blocks": 0}},
            "steps": [
                {"train": {"steps": 2, "batch": 4, **switches}},
                {"finetune": {"steps": 1, "batch": 4}},
                {"quantize": {"scheme": "float16"}},
            ],
        }
    )
    first, *others = execute(recipe, learning, Cache(tmp_path / "cache"), Options()).steps
    assert first.notes["swad"] == "steps 1 to 2"
    assert first.notes["group_weights"].startswith("one ")
    assert [step.notes for step in others] == [{}, {}]


def test_few_shots_are_all_that_a_recipe_sees(tiny_manifest: Manifest, tmp_path: Path) -> None:
    one = tiny_manifest.select(domain="one")
    learning = Learning(one.select(split="train"), one.select(split="val"))
    recipe = Recipe.model_validate(
        {
            "name": "few",
            "start": {"network": "lydite-small", "config": {"widths": [2], "blocks": 0}},
            "steps": [{"train": {"steps": 1, "batch": 4}}],
            "shots": 4,
        }
    )
    made = execute(recipe, learning, Cache(tmp_path / "cache"), Options()).detector
    seen = learning.of(recipe)
    assert (len(seen.train), len(seen.val)) == (6, 2)
    assert made.card.data == seen.digests
    assert made.card.score.n == 2


def replaying(**options: object) -> Recipe:
    return Recipe.model_validate({"name": "TL", "start": {"network": "lydite-small"}, **options})


def counts(part: Manifest) -> Counter[tuple[str, str]]:
    return Counter(zip(part.column("domain"), part.column("label"), strict=True))


def learning_of(manifest: Manifest) -> Learning:
    """Return the domain one to learn, after two."""
    one, two = (manifest.select(domain=name) for name in ("one", "two"))
    train, val = one.select(split="train"), one.select(split="val")
    return Learning(train, val, two.select(split="train"))


def test_replay_puts_old_images_beside_all_new_ones(tiny_manifest: Manifest) -> None:
    learning = learning_of(tiny_manifest)
    mixed = learning.of(replaying(replay=8))
    labels = ("real", "fake")
    assert counts(mixed.train) == {(d, x): n for d, n in (("one", 12), ("two", 6)) for x in labels}
    assert counts(mixed.val) == {(d, x): n for d, n in (("one", 4), ("two", 2)) for x in labels}
    assert not set(mixed.train.column("group")) & set(mixed.val.column("group"))
    assert "test" not in {*mixed.train.column("split"), *mixed.val.column("split")}
    for role, digest in learning.of(replaying()).digests.items():
        assert mixed.digests[role] != digest
    assert mixed.digests == learning.of(replaying(replay=8)).digests
    assert mixed.digests != learning.of(replaying(replay=8, seed=1)).digests


def test_replay_joins_the_few_shots(tiny_manifest: Manifest) -> None:
    learning = learning_of(tiny_manifest)
    few = learning.of(replaying(shots=4))
    mixed = learning.of(replaying(shots=4, replay=8))
    assert set(counts(mixed.train).values()) == {3, 6}
    assert set(counts(mixed.val).values()) == {1, 2}
    assert mixed.train.select(domain="one").digest == few.train.digest
    assert mixed.val.select(domain="one").digest == few.val.digest


def test_nothing_is_replayed_without_a_source_or_enough_images(tiny_manifest: Manifest) -> None:
    learning = learning_of(tiny_manifest)
    with pytest.raises(ConfigError, match="Recipe TL: `replay: 8` .* none is named"):
        Learning(learning.train, learning.val).of(replaying(replay=8))
    with pytest.raises(DataError, match="`replay: 16` needs as many .* of two, .* there are 12"):
        learning.of(replaying(replay=16))


@pytest.mark.filterwarnings("ignore:The validation AUC")
def test_a_quantized_detector_keeps_its_parents_threshold(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    one = tiny_manifest.select(domain="one")
    learning = Learning(one.select(split="train"), one.select(split="val"))
    plain = Detector.start(
        Architecture(network="lydite-small", input_size=64, config={"widths": [8]})
    )
    fitted = calibrate(plain.evolve(steps=({"train": {}},)), learning.val)
    far = fitted.card.score.model_copy(update={"threshold": fitted.card.score.threshold + 100.0})
    fitted.evolve(score=far).save(tmp_path / "trained")
    recipe = Recipe.model_validate(
        {
            "name": "half",
            "start": {"detector": tmp_path / "trained"},
            "steps": [{"quantize": {"scheme": "float16"}}],
        }
    )
    made = execute(recipe, learning, Cache(tmp_path / "cache"), Options()).detector
    assert made.card.score.threshold == pytest.approx(far.threshold, abs=0.1)
    assert made.card.score.fitted_on == learning.val.digest


def test_only_photographs_are_replayed_where_a_recipe_says_so(tiny_manifest: Manifest) -> None:
    learning = learning_of(tiny_manifest)
    mixed = learning.of(replaying(replay=8, replay_only="real"))
    old = [row.label for row in mixed.train.rows() if row.domain == "two"]
    assert old == ["real"] * 6
    checked = [row.label for row in mixed.val.rows() if row.domain == "two"]
    assert checked == ["real"] * 2


@pytest.mark.filterwarnings("ignore:The validation AUC")
def test_a_packs_threshold_leaves_the_replayed_photographs_alone(
    tiny_manifest: Manifest, tmp_path: Path
) -> None:
    learning = learning_of(tiny_manifest)
    data = learning.of(replaying(shots=4, replay=8, replay_only="real"))
    assert data.spared is not None
    assert len(data.spared) == 8
    assert set(data.spared.column("label")) == {"real"}
    assert set(data.spared.column("domain")) == {"two"}
    # fakes among the replayed are no photographs, and nobody spares them
    for options in ({"replay": 8}, {"replay": 8, "replay_only": "fake"}, {}):
        assert learning.of(replaying(shots=4, **options)).spared is None
    step = {"train": {"steps": 2, "batch": 4}}
    recipe = replaying(shots=4, replay=8, replay_only="real", steps=[step])
    made = execute(recipe, learning, Cache(tmp_path), Options()).detector
    scores = score_detector(made, data.spared)
    assert (scores["z"].to_numpy() > made.card.score.threshold).sum() == 0
