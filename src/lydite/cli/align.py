"""`lydite data align`: matching fakes of the user's own photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lydite.cli.output import emit, progress_reporter, table
from lydite.data.reasons import printable

Words = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)]
DEFAULT = ("tiny-f8-nearest",)


def align(
    photos: Path,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    autoencoder: Words = DEFAULT,
    steps: int = 1500,
    size: int = 256,
    format: str = "png",
    quality: int = 95,
    split: str | None = None,
    domain: Words = (),
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Make matching fakes of photographs: subject, size and format cannot give them away.

    Every photograph is cut, saved anew, and passed through an autoencoder; the result has the same
    subject, size, encoding and last compression. The new folder's manifest.parquet has a domain
    align-NAME for each autoencoder. Photographs are only read. Stopped, the same command goes on.

    Args:
        photos: a folder of photographs, or a manifest, whose real images are used.
        out: the folder to make.
        autoencoder: tiny-f8-nearest, -transposed or -shuffle, or tiny-f4-..., trained on these
            photographs in minutes; the folder of one trained earlier; or a local folder of
            diffusers (AutoencoderTiny, AutoencoderKL). May be repeated.
        steps: of training a tiny one.
        size: side of the crops in pixels, a multiple of 16; nothing is enlarged.
        format: png or jpeg, for both sides.
        quality: of JPEG.
        split: of a folder: train, val, test or fractions such as 0.7,0.1,0.2; of a manifest: the
            one split to use.
        domain: of a manifest, a domain to use; may be repeated; all unless given.
        limit: use at most so many photographs.
        seed: of every random choice.
        device: to train on: auto, cpu or cuda.
        dry_run: count, estimate the size, and write nothing.
        json: print one JSON document.
    """
    from lydite.config import validate
    from lydite.data.align.make import AlignSettings
    from lydite.data.align.photographs import find_photographs
    from lydite.study.align import align as run
    from lydite.study.align import plan_align
    from lydite.study.align_sources import find_sources
    from lydite.training.device import require_device

    require_device(device)
    progress = progress_reporter()
    encoding = {"format": format, "quality": quality}
    wanted = {"size": size, "encoding": encoding, "seed": seed}
    settings = validate(AlignSettings, wanted, "The request")
    sources = find_sources(autoencoder, steps)
    found = find_photographs(
        photos, split=split, domains=domain, limit=limit, seed=seed, progress=progress
    )
    plan = plan_align(found, out, sources, settings, steps=steps)
    if dry_run:
        value = plan.to_json()
        emit({**value, "dry_run": True}, json, lambda: plan_text(value))
        return 0
    made = run(plan, progress=progress, device=device)
    emit(made, json, lambda: result_text(made))
    return 0


def plan_text(value: dict[str, Any]) -> str:
    """Return what a dry run tells people."""
    lines = [
        f"would write {value['images']} images to {value['folder']}, "
        f"about {value['disk_bytes'] / 1e6:,.1f} MB: {value['photographs']} photographs, each with "
        f"a twin by {', '.join(value['autoencoders'])}",
        _counts("sides in pixels", value["sizes"]),
        _counts("splits", value["splits"]),
    ]
    return "\n".join(printable(line) for line in lines + _left_out(value))


def result_text(value: dict[str, Any]) -> str:
    """Return what people read afterwards."""
    rows = [
        (row["domain"], row["parameters"], row["psnr_db"], row["detail"])
        for row in value["domains"]
    ]
    lines = [
        f"{value['photographs']} photographs and their twins, {value['images']} images",
        _counts("splits", value["splits"]),
        *_left_out(value),
        f"wrote {value['manifest']}; next: lydite data check {value['manifest']}",
    ]
    head = table(("domain", "parameters", "PSNR in dB", "detail"), rows)
    return head + "\n\n" + "\n".join(printable(line) for line in lines)


def _counts(what: str, counts: dict[str, int]) -> str:
    return f"{what}: " + ", ".join(f"{name} {count}" for name, count in counts.items())


def _left_out(value: dict[str, Any]) -> list[str]:
    """Return lines about photographs without a twin."""
    lines = []
    skipped = value["skipped"]
    if skipped["count"]:
        lines.append(
            f"{skipped['count']} files were skipped; " + _counts("why", skipped["reasons"])
        )
        lines += [f"    {item['path']}: {item['code']}" for item in skipped["files"][:5]]
    if value["copies"]:
        lines.append(f"{value['copies']} files have the content of another and were left out")
    return lines
