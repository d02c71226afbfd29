"""The csv layout: what a table says is taken, and what it must not say is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lydite.data.scan import scan
from lydite.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        pixels = np.full((16, 16, 3), ord(name), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


def table(folder: Path, *lines: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_all_columns_are_used_and_others_ignored(folder: Path) -> None:
    digest = hashlib.sha256((folder / "a.png").read_bytes()).hexdigest()
    table(
        folder,
        "path,label,generator,domain,split,group,sha256,license",
        f"a.png,fake,gan,faces,Test,person 1,{digest},CC0",
        f"b.png,REAL,camera,faces,validation,person 2,{'0' * 64},CC0",
    )
    manifest = scan(folder)
    assert [
        manifest.column(name)
        for name in ("label", "generator", "domain", "split", "group", "error", "width", "format")
    ] == [
        ["fake", "real"],
        ["gan", "camera"],
        ["faces", "faces"],
        ["test", "val"],
        ["person 1", "person 2"],
        [None, "digest"],
        [16, 16],
        ["PNG", "PNG"],
    ]
    assert manifest.column("sha256")[0] == digest


def test_path_and_label_are_enough(folder: Path) -> None:
    path = table(folder, "\ufeffpath,label", "a.png,cat", "./b.png,dog")
    manifest = scan(path)
    assert manifest.root == folder
    assert manifest.column("path") == ["a.png", "b.png"]
    assert manifest.column("domain") == [folder.name] * 2


def test_missing_files_stay_with_a_reason(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    table(folder, "path,label", "a.png,real", "gone.png,fake", "sub,fake", "bad.png,fake")
    manifest = scan(folder)
    assert manifest.column("error")[:3] == [None, "missing", "not-a-file"]
    assert manifest.column("error")[3] is not None
    assert len(manifest.readable()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png,ai", "line 2: unknown label 'ai'. Allowed: cat, dog, fake, real"),
        ("a.png,", "unknown label ''"),
        ("../a.png,real", "not below"),
        ("x/../../a.png,real", "not below"),
        ("/etc/passwd,real", "not below"),
        ("C:\\a.png,real", "not below"),
        ("\\\\host\\a.png,real", "not below"),
        (",real", "not below"),
        ("a.png", "number of fields"),
        ("a.png,real,more", "number of fields"),
        ('"a.png,real', "not a CSV table"),
        ("a" * 70_000 + ",real", "not a CSV table"),
        ("b.png,real\nb.png,fake", "comes twice"),
        ("b.png,real\n./b.png,real", "comes twice"),
    ],
)
def test_hostile_rows_are_refused(folder: Path, line: str, message: str) -> None:
    table(folder, "path,label", line)
    with pytest.raises(DataError) as caught:
        scan(folder, "csv")
    assert message in str(caught.value)


def test_unknown_split_is_refused(folder: Path) -> None:
    table(folder, "path,label,split", "a.png,real,holdout")
    with pytest.raises(DataError, match="unknown split 'holdout'"):
        scan(folder)


def test_table_that_is_not_text(folder: Path) -> None:
    (folder / "manifest.csv").write_bytes(b"path,label\n\xff\xfe.png,real\n")
    with pytest.raises(DataError, match="UTF-8"):
        scan(folder / "manifest.csv")


def test_header_without_label_is_refused(folder: Path) -> None:
    path = table(folder, "path,class", "a.png,real")
    with pytest.raises(DataError, match="lacks the column 'label'"):
        scan(path, "csv")


def test_two_tables_are_not_guessed_between(folder: Path) -> None:
    table(folder, "path,label", "a.png,real")
    (folder / "other.csv").write_text("path,label\nb.png,fake\n", encoding="utf-8")
    (folder / "notes.csv").write_text("who,what\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.csv, other\.csv"):
        scan(folder)
    assert len(scan(folder / "other.csv")) == 1


def test_rows_without_a_split_follow_their_group(folder: Path) -> None:
    table(folder, "path,label,split,group", "a.png,real,val,g", "b.png,fake,,g", "c.png,fake,,g")
    assert scan(folder).column("split") == ["val"] * 3


@pytest.mark.skipif("LYDITE_FIELDPACK" not in os.environ, reason="LYDITE_FIELDPACK is not set")
@pytest.mark.slow
def test_fieldpack_as_its_own_table_says() -> None:
    manifest = scan(Path(os.environ["LYDITE_FIELDPACK"]))
    assert len(manifest) == 15_147
    assert len(manifest.readable()) == 15_147
    assert set(manifest.column("format")) == {"JPEG"}
    assert manifest.column("label").count("fake") == 7_378


def test_a_dot_in_a_folder_s_name_does_not_join_its_files(tmp_path: Path) -> None:
    paths = [f"v1.0/img{number}" for number in range(3)]
    (tmp_path / "v1.0").mkdir()
    for path in paths:
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / path, "PNG")
    table(tmp_path, "path,label", *(f"{path},real" for path in paths))
    assert scan(tmp_path).column("group") == paths


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,label,label", "a.png,real,fake"], "column 'label' twice"),
        (["path;label", "a.png;real"], "semicolons"),
        (["path\tlabel", "a.png\treal"], "tabs"),
        (["path,label"], "no rows"),
    ],
)
def test_tables_that_would_be_misread_are_refused(
    folder: Path, lines: list[str], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        scan(table(folder, *lines))


def test_a_table_of_another_name_is_read_where_the_layout_says_so(folder: Path) -> None:
    path = table(folder, "path,label,note,note", "a.png,real,x,y").rename(folder / "list.txt")
    assert scan(path, "csv").column("path") == ["a.png"]
    with pytest.raises(DataError, match="is a file"):
        scan(path)


def test_the_order_of_rows_decides_nothing(folder: Path) -> None:
    rows = ["a.png,real,train,G", "b.png,real,test,G", "c.png,fake,,G"]
    found = []
    for order in (rows, rows[1::-1] + rows[2:]):
        manifest = scan(table(folder, "path,label,split,group", *order))
        found.append(dict(zip(manifest.column("path"), manifest.column("split"), strict=True)))
    assert found[0] == found[1]
    assert found[0]["c.png"] == "test"  # whatever else, it is not learned from
