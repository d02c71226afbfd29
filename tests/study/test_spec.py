"""Study files: what is allowed, what is refused and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lydite.config import attributes_of
from lydite.errors import ConfigError, FileError
from lydite.recipe import parse_step
from lydite.study.reading import builtin_studies, parse_yaml, read_recipe, read_study
from lydite.study.schema import json_schema
from lydite.study.spec import Study
from lydite.training.train import Train

GOOD = """
name: small
data: {manifest: m.parquet, seen: [a]}
recipes:
  - name: BL
    start: {network: lydite-small}
    steps: [{train: {steps: 10}}]
  - name: CPF-90
    after: BL
    steps: [{prune: {rate: 0.9}}, finetune]
"""


def write(folder: Path, text: str) -> str:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_after_puts_the_other_recipes_steps_first(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, GOOD))
    recipes = study.resolved(7)
    assert [step.kind for step in recipes[1].steps] == ["train", "prune", "finetune"]
    assert recipes[1].start == recipes[0].start
    assert {recipe.seed for recipe in recipes} == {7}
    assert study.approach_of("CPF-90") == "CPF"
    assert study.reference_name == "BL"


def test_a_recipe_may_have_its_own_seeds(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, GOOD + "    seeds: [0, 3]\n"))
    runs = [(recipe.name, recipe.seed) for recipe in study.runs()]
    assert runs == [("BL", 0), ("CPF-90", 0), ("CPF-90", 3)]
    assert [len(recipe.steps) for recipe in study.runs()] == [1, 3, 3]
    with pytest.raises(ConfigError, match="seeds"):
        read_study(write(tmp_path, GOOD + "    seeds: []\n"))


def test_recipes_go_to_data_and_back(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, GOOD))
    for recipe in study.resolved(0):
        assert type(recipe).model_validate(recipe.model_dump(mode="json")) == recipe


def test_equal_beginnings_have_equal_keys(tmp_path: Path) -> None:
    from lydite.study.execute import keys_of, start_of

    data = {"train": "0" * 64, "val": "1" * 64}
    one, other = read_study(write(tmp_path, GOOD)).resolved(0)
    keys = [keys_of(r, start_of(r).card.key, data) for r in (one, other)]
    assert keys[0][0] == keys[1][0]
    assert len(set(keys[1])) == 3
    changed = keys_of(other, start_of(other).card.key, data | {"train": "2" * 64})
    assert not set(changed) & set(keys[1])


def test_another_rule_for_thresholds_has_other_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lydite.evaluate import calibrate
    from lydite.study.execute import keys_of

    recipe = read_study(write(tmp_path, GOOD)).resolved(0)[0]
    before = keys_of(recipe, "0" * 64, {})
    assert before[0] == recipe.steps[0].key("0" * 64, {}, recipe.seed)
    monkeypatch.setattr(calibrate, "RULE", calibrate.RULE + 1)
    assert not set(before) & set(keys_of(recipe, "0" * 64, {}))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("prune:", "prun:", "Did you mean 'prune'"),
        ("rate: 0.9", "rate: 90", "rate"),
        ("steps: 10", "stepz: 10", "stepz"),
        ("after: BL", "after: BLL", "Did you mean 'BL'"),
        ("name: small", "name: ../small", "name"),
        ("seen: [a]", "seen: []", "seen"),
        ("seen: [a]", "seen: [a], source: [b, a]", "'a' stands in both `source` and `seen`"),
        ("seen: [a]", "seen: [a], source: [b], exclude: [b]", "both `source` and `exclude`"),
        ("manifest: m.parquet, ", "", "exactly one of"),
        ("name: CPF-90", "name: BL", "same name"),
        ("name: small", "name: small\nversion: 99", "version"),
        ("name: small", "name: small\n\t- x", "not valid YAML"),
        ("m.parquet", "${LYDITE_NO_SUCH_VARIABLE}", "LYDITE_NO_SUCH_VARIABLE"),
        ("name: small", "name: small\nname: large", "'name' stands twice in one place, in lines 2"),
        ("steps: 10", "steps: 10, steps: 20", "'steps' stands twice"),
        ("[{train: {steps: 10}}]", "&a [*a]", "line 7: a value holds itself"),
        ("{train: {steps: 10}}", "{train: 0}", "`train` is not valid"),
        ("steps: 10", "steps: 10, jpeg: 1.0, jpeg_quality: [95, 70]", "`jpeg_quality` must ascend"),
        ("network: lydite-small", "network: lydite-small, preprocess: {size: 128}", "write both"),
        (
            "- name: CPF-90",
            "  seeds: [0, 1]\n  - name: BL-seed1\n    seeds: [0]",
            "called BL-seed1",
        ),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        read_study(write(tmp_path, GOOD.replace(old, new)))


def test_a_missing_file_names_the_builtin_studies(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="demo"):
        read_study(str(tmp_path / "nothing.yaml"))


@pytest.mark.parametrize("name", builtin_studies())
def test_builtin_studies_are_valid(name: str) -> None:
    study = read_study(name)
    assert len(study.resolved(0)) == len(study.recipes)


def test_variables_are_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LYDITE_TEST_FOLDER", "/somewhere")
    study = read_study(write(tmp_path, GOOD.replace("m.parquet", "'${LYDITE_TEST_FOLDER}/m'")))
    assert study.data.manifest == Path("/somewhere/m")


def test_a_recipe_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: one\nstart: {network: lydite-small}\nsteps: [train]\n", "utf-8")
    assert read_recipe(path).steps[0].kind == "train"


@pytest.mark.parametrize("of", ["recipe", "study", "card"])
def test_schemas_name_every_step(of: str) -> None:
    schema = json_schema(of)
    assert schema["type"] == "object"
    if of != "card":
        assert "step-prune" in schema["$defs"]
        assert "rate" in schema["$defs"]["step-prune"]["properties"]
        # options of all steps that learn, whose texts stand at the class they come from
        train = schema["$defs"]["step-train"]
        for name, words in {"swa": "1803.05407", "robust": "DRO", "crop": "JPEG's blocks"}.items():
            assert words in train["properties"][name]["description"]
        assert "Attributes" not in train["description"]


def test_texts_of_attributes_end_with_their_section() -> None:
    class Base:
        """A base.

        Attributes:
            one: of two
                lines, and: a colon.
            two: overridden.

        More:
            three: is no attribute.
        """

    class Child(Base):
        """A child.

        Attributes:
            two: its own.
        """

    assert attributes_of(Child) == {"one": "of two lines, and: a colon.", "two": "its own."}
    assert attributes_of(object) == {}


@pytest.mark.parametrize("value", [3, {"train": {}, "prune": {}}, ["train"], {}])
def test_what_is_no_step_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="A step is a name"):
        parse_step(value)


def test_every_step_goes_to_yaml_and_back() -> None:
    for entry in ({"train": {"steps": 5}}, {"prune": {"rate": 0.5}}, {"quantize": {}}):
        step = parse_step(entry)
        assert parse_step(yaml.safe_load(yaml.safe_dump(step.spec()))) == step


def test_few_shots_belong_to_a_recipe_and_those_after_it(tmp_path: Path) -> None:
    text = GOOD.replace("    start:", "    shots: 16\n    start:")
    one, other = read_study(write(tmp_path, text)).runs()
    assert (one.shots, other.shots) == (16, 16)
    assert one.model_dump(mode="json")["shots"] == 16
    assert type(one).model_validate(one.model_dump(mode="json")) == one
    plain = read_study(write(tmp_path, GOOD)).runs()[0]
    assert "shots" not in plain.model_dump(mode="json")  # as results of before have it
    with pytest.raises(ConfigError, match="shots"):
        read_study(write(tmp_path, text.replace("16", "1")))


def test_replay_belongs_to_a_recipe_and_those_after_it(tmp_path: Path) -> None:
    text = GOOD.replace("    start:", "    replay: 8\n    start:")
    one, other = read_study(write(tmp_path, text)).runs()
    assert (one.replay, other.replay) == (8, 8)
    with pytest.raises(ConfigError, match="`replay` would hold for them too"):
        read_study(write(tmp_path, text + "    replay: 4\n"))
    value = other.model_dump(mode="json")
    assert value["replay"] == 8
    assert "shots" not in value
    assert type(other).model_validate(value) == other
    assert "replay" not in read_study(write(tmp_path, GOOD)).runs()[0].model_dump(mode="json")


def test_few_images_for_steps_that_were_to_learn_from_all_are_refused() -> None:
    start = {"network": "lydite-small"}
    value: dict[str, object] = {
        "name": "s",
        "data": {"demo": {}, "seen": ["a"]},
        "recipes": [
            {"name": "BL", "start": start, "steps": ["train"]},
            {"name": "few", "after": "BL", "steps": ["finetune"], "shots": 8},
        ],
    }
    with pytest.raises(ValueError, match=r"few comes after BL, .* `shots` would hold for them too"):
        Study.model_validate(value)
    value["recipes"] = [
        {"name": "BL", "start": start},
        {"name": "few", "after": "BL", "steps": ["train"], "shots": 8},
        {"name": "more", "after": "few", "steps": ["finetune"], "shots": 8},
    ]
    assert [recipe.shots for recipe in Study.model_validate(value).resolved(0)] == [None, 8, 8]


def test_references_without_end_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        parse_yaml("\n".join(lines), "study.yaml")
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_yaml("[" * 5000 + "]" * 5000, "study.yaml")


def test_merged_keys_may_be_written_over() -> None:
    text = "base: &b {steps: 1, lr: 2}\nmore: {<<: *b, steps: 3}\nagain: {<<: *b, lr: 4}"
    assert parse_yaml(text, "x")["more"] == {"steps": 3, "lr": 2}
    assert parse_yaml("", "x") is None


def test_two_detectors_cannot_share_a_file(tmp_path: Path) -> None:
    text = GOOD.replace("  - name: CPF-90", "    seeds: [0, 1]\n  - name: BL-seed1\n    seeds: [0]")
    with pytest.raises(ConfigError, match="two detectors would be called BL-seed1"):
        read_study(write(tmp_path, text))


def test_truth_is_no_number() -> None:
    for value in ({"steps": True}, {"lr": True}, {"domain_shares": True}):
        with pytest.raises(ConfigError):
            parse_step({"train": value})
    with pytest.raises(ConfigError, match="`steps` is a number, and true is none"):
        parse_step({"train": {"steps": True}})
    assert parse_step({"train": {"flip": False, "steps": 1}}) == Train(flip=False, steps=1)


def test_yaml_with_control_characters_is_refused_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml("name: T\x00\n", "here")
