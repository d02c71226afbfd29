"""Commands write new files and older ones of the same kind, and never what they read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lydite.cli.target import require_target
from lydite.data.manifest import Manifest
from lydite.errors import ConfigError, FileError


@pytest.fixture
def there(tmp_path: Path, tiny_manifest: Manifest) -> dict[str, Path]:
    """Return one file of every kind."""
    files = {name: tmp_path / name for name in ("manifest", "scores", "page", "photo", "empty")}
    tiny_manifest.write(files["manifest"])
    pq.write_table(pa.table({"z": [1.0]}), files["scores"])
    files["page"].write_text("<!DOCTYPE html>\n<title>x</title>")
    files["photo"].write_bytes(b"\xff\xd8\xff\xe0")
    files["empty"].write_bytes(b"")
    return files | {"folder": tmp_path, "new": tmp_path / "new"}


@pytest.mark.parametrize("kind", ["manifest", "scores", "page"])
def test_files_of_another_kind_are_not_written_over(there: dict[str, Path], kind: str) -> None:
    for name, path in there.items():
        if name in (kind, "new", "empty"):
            require_target(path, kind, option="--out")  # type: ignore[arg-type]
        else:
            with pytest.raises(ConfigError, match="`--out` must be a new file or"):
                require_target(path, kind, option="--out")  # type: ignore[arg-type]


def test_what_a_command_reads_is_not_written_over(there: dict[str, Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(there["manifest"])
    for path in (there["manifest"], link):
        with pytest.raises(ConfigError, match="is what this command reads"):
            require_target(path, "manifest", option="--out", reads=[there["manifest"]])


def test_devices_are_targets_and_impossible_names_are_not() -> None:
    require_target(Path("/dev/null"), "page", option="--html")
    with pytest.raises(FileError, match="Cannot write"):
        require_target(Path("x" * 300), "page", option="--html")
