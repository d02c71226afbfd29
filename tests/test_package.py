"""The package as a whole: light, typed, documented, and free of what does not belong in it."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lydite

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "lydite"
MODULES = sorted(SOURCE.rglob("*.py"))
#: what only the extras install
EXTRAS = {
    "filelock",
    "imagehash",
    "jinja2",
    "lightning_fabric",
    "matplotlib",
    "onnx",
    "onnxscript",
    "psutil",
    "pyarrow",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "threadpoolctl",
    "timm",
    "torch",
    "torch_pruning",
}
#: what prediction may use of this package
PREDICTION = {
    "lydite",
    "lydite.card",
    "lydite.config",
    "lydite.edits",
    "lydite.errors",
    "lydite.explain",
    "lydite.explain.patches",
    "lydite.files",
    "lydite.delta",
    "lydite.onnx_guard",
    "lydite.pack",
    "lydite.pack_folder",
    "lydite.predictor",
    "lydite.registry",
    "lydite.session",
}
PREDICTION_DATA = re.compile(
    r"lydite\.data(\.(decode|folder|header|pixels|preprocess|reasons|strict|whole))?"
)
#: paths of one machine, and addresses of package registries
FOREIGN = re.compile(r"(?<![\w.])/(?:work|farm|root|home|Users)/\w|pypi\.org|npmjs\.org")


def imported_by(statement: str) -> set[str]:
    """Return the names of all modules that a fresh Python holds after a statement."""
    program = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "src",
    ).stdout
    return set(json.loads(output))


def tracked_files() -> list[Path]:
    """Return the files that git knows, or skip the test outside a checkout."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [file for file in files if file.is_file()]


def public(module: Path) -> bool:
    return not any(p.startswith("_") and p != "__init__.py" for p in module.parts[-3:])


def test_import_lydite_is_light() -> None:
    loaded = imported_by("import lydite")
    assert not {name.split(".")[0] for name in loaded} & (EXTRAS | {"numpy", "PIL", "pydantic"})


@pytest.mark.parametrize(
    "statement",
    [
        "import lydite.predictor",
        "import lydite.cli.predict",
        "import lydite.cli.explain, lydite.explain.overlay",
        "import lydite.cli.doctor",
        "import lydite.cli.pack",
    ],
)
def test_base_commands_need_no_extra(statement: str) -> None:
    assert not {name.split(".")[0] for name in imported_by(statement)} & EXTRAS


def test_predictor_uses_only_its_rooms() -> None:
    ours = {name for name in imported_by("import lydite.predictor") if name.startswith("lydite")}
    strange = {name for name in ours - PREDICTION if not PREDICTION_DATA.fullmatch(name)}
    assert not strange


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert lydite.__version__ == project["version"]
    assert f"## [{lydite.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    try:
        installed = importlib.metadata.version("lydite")
    except importlib.metadata.PackageNotFoundError:
        return
    assert installed == lydite.__version__


def test_package_is_typed() -> None:
    assert (SOURCE / "py.typed").is_file()


def test_there_are_modules_to_check() -> None:
    assert len(MODULES) > 40


def test_public_modules_say_what_they_are() -> None:
    silent = [
        str(module.relative_to(SOURCE))
        for module in MODULES
        if public(module) and not ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_no_tracked_file_names_a_machine() -> None:
    found = []
    for file in tracked_files():
        if file.suffix in {".png", ".jpg", ".onnx", ".safetensors", ".parquet"}:
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        if file == Path(__file__):
            text = text.replace(FOREIGN.pattern, "")
        for number, line in enumerate(text.splitlines(), 1):
            if FOREIGN.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found


def test_lock_holds_versions_and_nothing_else() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    entries = [line for line in lines if not line.startswith("#")]
    pattern = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [a-z_]+ [<>=!]+ '[\w.]+'.*)?")
    assert [line for line in entries if not pattern.fullmatch(line)] == []
    names = {line.split("==")[0] for line in entries}
    assert {"torch", "numpy", "onnxruntime", "pytest", "ruff"} <= names


def test_every_step_has_a_schema_and_says_what_it_needs() -> None:
    pytest.importorskip("torch")
    from pydantic import ValidationError

    from lydite.recipe import STEPS, load_steps, parse_step

    load_steps()
    assert {"train", "prune", "finetune", "adapt", "distill", "quantize"} <= set(STEPS)
    for name in STEPS:
        cls = STEPS.get(name)
        assert cls.kind == name
        required = {key for key, field in cls.model_fields.items() if field.is_required()}
        assert required <= set(cls.model_json_schema()["required"] if required else ())
        if required:
            with pytest.raises(ValidationError):
                cls.model_validate({})
        else:
            spec = {name: cls().model_dump(mode="json", exclude=set(cls.quiet))}
            assert parse_step(name).spec() == spec


@pytest.mark.parametrize("what", ["recipe", "study", "card"])
def test_schemas_build(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    from lydite.cli import main

    assert main(["schema", what]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["type"] == "object"
    assert schema["properties"]


def test_links_between_pages_lead_somewhere() -> None:
    link = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    assert len(pages) > 4
    dead = [
        f"{page.name}: {target}"
        for page in pages
        for target in link.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not dead


def test_layouts_networks_and_steps_of_the_pages_exist() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pyarrow")
    from lydite.cli import COMMANDS
    from lydite.data.scan import LAYOUTS
    from lydite.recipe import STEPS, load_steps

    load_steps()
    first_cells = re.compile(r"^\| `([a-z0-9-]+)` \|", re.MULTILINE)
    assert set(first_cells.findall((ROOT / "docs/data.md").read_text())) == set(LAYOUTS)
    assert set(first_cells.findall((ROOT / "docs/recipes.md").read_text())) == set(STEPS)
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = set(re.findall(r"\blydite ([a-z]+) ", page.read_text(encoding="utf-8")))
        assert named <= set(COMMANDS), page.name
