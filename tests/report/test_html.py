"""The page: complete, offline, inert, the same every time."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lydite.errors import DataError
from lydite.evaluate.unseen import Roles
from lydite.files import read_json, write_json
from lydite.report.html import _scores, write_report
from lydite.report.view import lines_of
from lydite.study.results import read_results, results_of_plan, write_result


class Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def text(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_report(study_folder, tmp_path_factory.mktemp("out") / "page.html")
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_nothing_runs_and_nothing_is_loaded(text: str, page: Page) -> None:
    assert not page.all("script")
    policy = page.all("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert all(
        (image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img")
    )
    for _, attrs in page.tags:
        for name, value in attrs.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href", "action"):
                assert (value or "").startswith(("#", "data:image/")), (name, value)
    assert not re.search(r"@import|url\((?!#)", text)


def test_hostile_names_are_text(text: str, page: Page) -> None:
    assert "<script>" not in text
    titles = {image["title"] for image in page.all("img")}
    assert any("<script>alert(1)" in (title or "") for title in titles)
    assert page.all("h1")
    assert "A made-up study <of nothing>" in page.words


def test_folders_of_the_machine_stay_out(text: str, study_folder: Path) -> None:
    assert "manifest: …/manifest.parquet" in text
    assert str(study_folder.parent) not in text


def test_every_recipe_and_number_is_there(page: Page, study_folder: Path) -> None:
    from lydite.study.results import read_results

    words = " ".join(page.words)
    for result in read_results(study_folder / "results"):
        assert result.recipe in words
        assert result.card_digest in words
        figure = result.figure("auc", group="unseen-mean", split="test")
        assert figure is not None
        assert f"{figure.value:.3f}" in words
        assert f"{result.cost.parameters:,}".replace(",", "\u2009") in words


def test_what_training_took_is_there(page: Page) -> None:
    assert "1\u2009999\u2009000" in page.words
    assert "412 MB" in page.words


def test_ids_are_unique_and_references_lead_somewhere(text: str, page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    wanted = {m for m in re.findall(r'(?:href="#|url\(#)([^")]+)', text)}
    wanted |= {i for svg in page.all("svg") for i in (svg["aria-labelledby"] or "").split()}
    assert wanted <= set(ids)


def test_everything_seen_can_be_heard(page: Page) -> None:
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("svg")) == len(page.all("desc")) == 8
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(header.get("scope") for header in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"


def test_the_same_results_give_the_same_page_in_the_default_place(
    study_folder: Path, text: str
) -> None:
    path = write_report(study_folder)
    assert path == study_folder / "report.html"
    assert path.read_text("utf-8") == text
    path.unlink()


def test_images_can_be_left_out(
    study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lydite.report.html._drawings", lambda *_: {"accuracy": ""})
    path = write_report(study_folder, tmp_path / "page.html", images=False)
    assert not Page(path.read_text("utf-8")).all("img")


def test_results_alone_are_enough(study_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for file in (study_folder / "results").glob("*.json"):
        (tmp_path / "results" / file.name).write_bytes(file.read_bytes())
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert not page.all("img")
    assert {svg["aria-labelledby"] for svg in page.all("svg")} >= {"matrix-title matrix-desc"}


def test_a_source_is_shown_between_seen_and_unseen(study_folder: Path, tmp_path: Path) -> None:
    from lydite.evaluate.score import read_scores
    from lydite.evaluate.summary import summarize

    for result in read_results(study_folder / "results"):
        scores = read_scores(study_folder / "scores" / f"{result.recipe}.parquet")
        made = summarize(scores, roles=Roles(("sim-a",), ("sim-c",)), n_boot=20)
        new = result.model_copy(update={"source": ("sim-c",), "figures": made})
        write_result(tmp_path / "results", new)
    text = write_report(tmp_path).read_text("utf-8")
    page = Page(text)
    said = " ".join(page.words)
    assert "Seen: sim-a. Source, which was learned before: sim-c. Unseen: the mean" in said
    assert "Accuracy source %" in said
    assert f"{100 * new.figure('accuracy', group='source', split='test').value:.1f}" in said
    assert "accuracy on sim-c, learned before" in text
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))


def test_a_page_without_a_source_does_not_speak_of_one(page: Page) -> None:
    assert "learned before" not in " ".join(page.words)
    assert "Accuracy source %" not in page.words


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results of this study in"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_results_that_the_plan_does_not_ask_for_stay_out(
    study_folder: Path, tmp_path: Path
) -> None:
    """After `--replace`: of another recipe, another seed, and of other images."""
    folder = tmp_path / "study"
    shutil.copytree(study_folder, folder)
    kept, *others = read_results(folder / "results")
    plan = read_json(folder / "study.json")
    plan["data"] = dict(kept.data)
    write_json(folder / "study.json", plan)
    write_result(folder / "results", kept.model_copy(update={"seed": 7}))
    later = {"data": {"test": "0" * 64}, "created": "2027-01-01T00:00:00+00:00"}
    write_result(folder / "results", others[0].model_copy(update=later))
    gone = others[1].model_copy(update={"recipe": "gone"})
    write_result(folder / "results", gone)
    found = results_of_plan(folder)
    assert {(r.recipe, r.seed) for r in found} == {(r.recipe, 0) for r in [kept, *others]}
    assert all(r.data == kept.data for r in found)
    said = " ".join(Page(write_report(folder, images=False).read_text("utf-8")).words)
    assert "gone" not in said
    assert "seed 7" not in said
    write_json(folder / "study.json", plan | {"data": {"test": "1" * 64}})
    with pytest.raises(DataError, match="no results of this study"):
        write_report(folder)


def test_scores_of_another_detector_are_not_drawn(study_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study_folder, folder)
    first, second, *_ = (result.recipe for result in read_results(folder / "results"))
    other = folder / "scores" / f"{first}-seed0.parquet"
    other.write_bytes((folder / "scores" / f"{second}.parquet").read_bytes())
    lines = lines_of(results_of_plan(folder))
    shown = _scores(folder, lines)
    assert shown.keys() == {line.name for line in lines}
    for line in lines:
        assert set(shown[line.name]["key"].to_pylist()) == {line.result.key}


@pytest.mark.parametrize(
    "plan",
    [
        {"recipes": "abc"},
        {"recipes": None},
        {"recipes": ["BL"]},
        {"data": "x"},
        {"data": {"manifest": 5}},
        {"title": 5},
        {"title": "\ud800"},
        {"study": "x"},
    ],
)
def test_a_plan_that_is_none_is_refused(
    study_folder: Path, tmp_path: Path, plan: dict[str, object]
) -> None:
    shutil.copytree(study_folder / "results", tmp_path / "results")
    (tmp_path / "study.json").write_text(json.dumps(plan))
    with pytest.raises(DataError, match="is not the plan of a study"):
        write_report(tmp_path)
