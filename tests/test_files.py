"""Files are whole or not there: atomic writes, locks, refusals that name the path."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lydite.errors import BusyError, FileError
from lydite.files import (
    TEMPORARY_PREFIX,
    canonical_json,
    digest,
    lock_folder,
    publish_folder,
    read_bytes,
    read_json,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
)


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.startswith(TEMPORARY_PREFIX)]


def test_digests_do_not_depend_on_key_order() -> None:
    assert digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert canonical_json({"b": "é", "a": 1}) == b'{"a":1,"b":"\\u00e9"}'


def test_nan_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "text": 'ü \\ "', "none": None, "empty": [{}, []]},
        [{"metric": "auc", "value": n / 7, "slice": {"domain": "one"}} for n in range(30)],
        {"long": "x" * 300, "inner": {"list": list(range(100)), "of": [["y" * 90] * 3] * 3}},
        [],
        "word",
    ],
)
def test_compact_json_is_the_same_json(tmp_path: Path, value: object) -> None:
    path = tmp_path / "a.json"
    write_json(path, value, compact=True)
    text = path.read_text("utf-8")
    assert json.loads(text) == value
    write_json(path, value)
    assert len(text.splitlines()) <= len(path.read_text("utf-8").splitlines())
    assert all(len(line) <= 242 for line in text.splitlines() if "x" * 300 not in line)


def test_write_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    write_json(path, {"b": 1, "a": "ü"})
    assert read_json(path) == {"b": 1, "a": "ü"}
    assert sha256_file(path) == sha256_bytes(path.read_bytes())
    assert not leftovers(tmp_path)


def test_too_large_and_not_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(FileError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(FileError, match="larger than the 10 bytes"):
        read_bytes(path, 10)


@pytest.mark.parametrize("path", ["missing.json", "folder"])
def test_unreadable_names_the_path(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=path):
        read_json(tmp_path / path)
    with pytest.raises(FileError, match=path):
        sha256_file(tmp_path / path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    write_bytes(path, b"old")
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from lydite.files import write_bytes; from lydite.errors import FileError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_bytes(Path(sys.argv[1]), bytes(5000))\n"
        "except FileError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert str(path) in done.stdout
    assert path.read_bytes() == b"old"
    assert not leftovers(tmp_path)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FileError, match="file"):
        write_bytes(tmp_path / "file" / "below.json", b"y")
    with pytest.raises(FileError, match="file"), publish_folder(tmp_path / "file" / "below"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(FileError, match="locked"):
        write_bytes(locked / "x", b"y")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "detector"
    with pytest.raises(RuntimeError), publish_folder(target) as folder:
        (folder / "half").write_bytes(b"x")
        assert not target.exists()
        raise RuntimeError
    assert not target.exists()
    for content in (b"one", b"two"):
        with publish_folder(target) as folder:
            (folder / "whole").write_bytes(content)
        assert (target / "whole").read_bytes() == content
    assert not leftovers(tmp_path)


def test_an_error_keeps_the_older_folder(tmp_path: Path) -> None:
    target = tmp_path / "detector"
    with publish_folder(target) as folder:
        (folder / "a").write_bytes(b"old")
    with pytest.raises(RuntimeError), publish_folder(target):
        raise RuntimeError
    assert (target / "a").read_bytes() == b"old"


@pytest.mark.parametrize("moment", ["before", "between", "system"])
def test_a_stop_while_folders_are_exchanged_keeps_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    target, calls = tmp_path / "detector", 0
    with publish_folder(target) as folder:
        (folder / "a").write_bytes(b"old")
    whole = Path.replace

    def replace(path: Path, other: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == (1 if moment == "before" else 2):
            raise OSError(5, "broken") if moment == "system" else KeyboardInterrupt
        return whole(path, other)

    monkeypatch.setattr(Path, "replace", replace)
    expected = FileError if moment == "system" else KeyboardInterrupt
    with pytest.raises(expected), publish_folder(target) as folder:
        (folder / "a").write_bytes(b"new")
    assert (target / "a").read_bytes() == b"old"
    assert not leftovers(tmp_path)


def test_a_folder_keeps_its_permissions_and_its_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with publish_folder(tmp_path / "link") as folder:
        (folder / "a").write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_bytes() == b"new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o700
    assert not leftovers(tmp_path)
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileError, match="a file of that name"), publish_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_links_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_bytes(tmp_path / "pipe", b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["\0", "x" * 300])
def test_names_that_no_system_allows(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match="Cannot write"):
        write_bytes(tmp_path / name, b"y")
    with pytest.raises(FileError, match="Cannot write"), publish_folder(tmp_path / name):
        pass


def test_one_lock_a_folder_and_none_after_a_kill(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from lydite.files import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match="Wait for it"), lock_folder(tmp_path):
            pass
        other.kill()
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_a_folder_that_cannot_be_replaced_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount point, say, as containers have for what they write."""
    target = tmp_path / "mounted"
    target.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == target)
    number = target.stat().st_ino
    with pytest.raises(RuntimeError), publish_folder(target) as folder:
        (folder / "half").write_bytes(b"x")
        raise RuntimeError
    assert list(target.iterdir()) == []
    with publish_folder(target) as folder:
        assert folder.parent == target
        (folder / "card.json").write_bytes(b"{}")
        (folder / "below").mkdir()
        (folder / "below" / "a").write_bytes(b"a")
    assert sorted(p.name for p in target.iterdir()) == ["below", "card.json"]
    assert target.stat().st_ino == number
    with pytest.raises(FileError, match="mount point"), publish_folder(target):
        pass
    assert (target / "below" / "a").read_bytes() == b"a"


def test_what_cannot_be_written_in_a_folder_is_named_as_it_would_be(tmp_path: Path) -> None:
    target = tmp_path / "maps"
    with pytest.raises(FileError) as caught, publish_folder(target) as folder:
        (folder / "a").mkdir()
        write_bytes(folder / "a", b"x")
    assert str(target / "a") in str(caught.value)
    assert TEMPORARY_PREFIX not in str(caught.value)


def test_a_folder_in_which_nothing_came_of_the_work_is_not_left_behind(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "refused", tidy=True):
        pass
    assert not (tmp_path / "refused").exists()
    with lock_folder(tmp_path / "used", tidy=True):
        (tmp_path / "used" / "plan.json").write_bytes(b"{}")
    assert (tmp_path / "used" / "plan.json").exists()
    with lock_folder(tmp_path / "kept"):
        pass
    assert (tmp_path / "kept").is_dir()
    (tmp_path / "mine").mkdir()
    with lock_folder(tmp_path / "mine", tidy=True):
        pass
    assert (tmp_path / "mine").is_dir()
