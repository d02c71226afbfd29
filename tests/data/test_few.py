"""Few images of a selection: how many, whole groups, nested, and never on both sides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from lydite.data.few import few
from lydite.data.manifest import Manifest, from_columns
from lydite.errors import DataError
from lydite.files import digest


def manifest(domains: tuple[str, ...] = ("a", "b"), groups: int = 30, fakes: int = 2) -> Manifest:
    """Return photographs with `fakes` fakes each, all of one group."""
    names = ("path", "sha256", "label", "generator", "domain", "split", "group", "bytes")
    columns: dict[str, list[object]] = {name: [] for name in names}
    for domain in domains:
        for group in range(groups):
            for number in range(1 + fakes):
                path = f"{domain}-{group}-{number}.png"
                label = "fake" if number else "real"
                values = (path, digest(path), label, "g", domain, "train", f"{domain}{group}", 9)
                for name, value in zip(columns, values, strict=True):
                    columns[name].append(value)
    return from_columns(columns, Path())


def counts(part: Manifest) -> Counter[tuple[str, str]]:
    return Counter(zip(part.column("domain"), part.column("label"), strict=True))


def test_every_class_and_domain_has_its_shots_three_quarters_to_learn_from() -> None:
    learn, check = few(manifest(), 8, seed=0)
    assert set(counts(learn).values()) == {6}
    assert set(counts(check).values()) == {2}
    assert len(counts(learn)) == len(counts(check)) == 4


def test_groups_are_never_on_both_sides_and_pairs_stay_together() -> None:
    learn, check = few(manifest(), 8, seed=0)
    assert not set(learn.column("group")) & set(check.column("group"))
    groups = {label: set(learn.select(label=label).column("group")) for label in ("real", "fake")}
    assert groups["fake"] <= groups["real"]


def test_more_shots_keep_what_fewer_had_and_order_does_not_matter() -> None:
    every = manifest()
    small, large = (set().union(*(p.column("sha256") for p in few(every, n, 3))) for n in (4, 16))
    assert len(small & large) > 0.8 * len(small)
    turned = Manifest(every.table.take(list(range(len(every)))[::-1]), every.root)
    assert [p.digest for p in few(turned, 8, 1)] == [p.digest for p in few(every, 8, 1)]
    assert few(every, 8, 2)[0].digest != few(every, 8, 1)[0].digest


def spanning(domain: str, groups: range) -> Manifest:
    """Return a domain of pairs whose groups carry no domain's name."""
    made = manifest((domain,), groups.stop, fakes=1)
    rows = [f"{domain}{group}" for group in groups]
    table = made.select(group=rows).table
    place = table.column_names.index("group")
    plain = [name.removeprefix(domain) for name in table["group"].to_pylist()]
    return Manifest(table.set_column(place, "group", [plain]), made.root)


@pytest.mark.parametrize(("theirs", "ours"), [(8, 8), (32, 8), (8, 32)])
def test_groups_do_not_change_sides_beside_another_choice(theirs: int, ours: int) -> None:
    new, old = spanning("new", range(80)), spanning("old", range(80))
    beside = few(new, theirs, seed=0)
    learn, check = few(old, ours, seed=0, beside=beside)
    assert counts(learn) == {("old", label): ours * 3 // 4 for label in ("real", "fake")}
    assert counts(check) == {("old", label): ours // 4 for label in ("real", "fake")}
    train = {*beside[0].column("group"), *learn.column("group")}
    assert not train & {*beside[1].column("group"), *check.column("group")}
    assert set(learn.column("group")) == set(learn.select(label="real").column("group"))


def test_no_group_is_left_for_the_threshold() -> None:
    new, old = spanning("new", range(20)), spanning("old", range(20))
    with pytest.raises(DataError, match="`replay: 4` needs as many fake images of old.*on the oth"):
        few(old, 4, 0, option="replay", beside=(new, new.select(group="none")))


def test_too_few_images_are_refused_with_their_number() -> None:
    with pytest.raises(DataError, match="as many real images of a.*there are 5"):
        few(manifest(("a",), groups=5), 8, 0)


def test_one_image_under_two_names_stays_on_one_side() -> None:
    new = manifest(("a",))
    copies = {name: new.column(name) for name in new.table.column_names}
    copies |= {"domain": ["old"] * len(new), "group": [f"other{g}" for g in new.column("group")]}
    old = from_columns(copies, Path())
    mine = few(new, 8, seed=0)
    theirs = few(old, 8, seed=1, option="replay", beside=mine)
    learned, checked = (
        {*a.column("sha256"), *b.column("sha256")} for a, b in zip(mine, theirs, strict=True)
    )
    assert not learned & checked
