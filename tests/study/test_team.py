"""Two processes under torchrun make one detector together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lydite.data.manifest import Manifest
from lydite.detector import Detector
from lydite.study.results import read_results
from lydite.training.team import Team

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lydite.study.run import StudyOptions, run_study
from lydite.study.spec import Study
study = Study.model_validate_json(Path(sys.argv[1]).read_text())
results = run_study(study, StudyOptions(Path(sys.argv[2]), device="cpu"))
# one write, so that two processes do not mix theirs
sys.stdout.write(f"results {len(results)}\\n")
"""


def test_a_single_process_is_a_team_of_one() -> None:
    team = Team.current()
    assert team.leads
    assert team.agree(True)
    assert not team.agree(False)


@pytest.mark.slow
def test_two_processes_make_one_detector(tiny_manifest: Manifest, tmp_path: Path) -> None:
    from lydite.study.spec import Study

    tiny_manifest.write(tmp_path / "given.parquet")
    study = Study.model_validate(
        {
            "name": "team",
            "data": {"manifest": tmp_path / "given.parquet", "seen": ["one"]},
            "bench": {"warmup": 1, "repeats": 3},
            "recipes": [
                {
                    "name": "BL",
                    "start": {"network": "lydite-small", "config": {"widths": [8, 16]}},
                    "steps": [
                        {"train": {"steps": 10, "batch": 8, "checkpoint_s": 0.0}},
                        {"prune": {"rate": 0.3, "multiple": 1}},
                        {"prune": {"rate": 0.3, "multiple": 1, "rounds": 2, "recover": 3}},
                        {"prune": {"rate": 0.2, "multiple": 1, "rounds": 2, "recover": 0}},
                        {"finetune": {"steps": 4, "batch": 8}},
                        {
                            "distill": {
                                "student": "lydite-small",
                                "config": {"widths": [4, 8]},
                                "method": ["logits", "features", "patches"],
                                "transfer": {
                                    "manifest": tmp_path / "given.parquet",
                                    "domains": ["two"],
                                },
                                "degrade": {"jpeg": 0.5},
                                "steps": 4,
                                "batch": 8,
                                "checkpoint_s": 0.0,
                            }
                        },
                    ],
                }
            ],
        }
    )
    (tmp_path / "study.json").write_text(study.model_dump_json(), encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*run, "script.py", "study.json", "out"]
    for _ in range(2):  # the second run finds everything done
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=110
        )
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.split("\n")) == ["", "results 0", "results 1"]
    assert len(read_results(tmp_path / "out" / "results")) == 1
    card = Detector.load(tmp_path / "out" / "detectors" / "BL").card
    assert card.training["devices"] == 2
