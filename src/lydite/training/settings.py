"""How a network is trained: one validated set of options shared by train, finetune and distill."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lydite.config import Fraction, Frozen

#: settings that step entries leave out at their defaults, so that older entries keep their keys
NEWER = frozenset({"swa", "domain_shares"})


class TrainSettings(Frozen):
    """Options of every step that trains.

    Attributes:
        steps: optimizer steps.
        batch: images a step, over all devices.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay.
        schedule: "cosine" (linear warm-up, then half a cosine down to zero), or "constant".
        warmup: share of the steps that warms up.
        crop: where training crops come from: "random" positions; "grid", random multiples of the
            8 pixels of JPEG's blocks; or the very "tiles" that prediction looks at. The last two
            keep the phase of a generator's grid, which is easier to learn and less general.
        flip: mirror half of the crops.
        jpeg: probability of re-compressing a crop at a quality in `jpeg_quality`.
        jpeg_quality: lowest and highest quality.
        blur: probability of a Gaussian blur with a radius up to `blur_radius` pixels.
        blur_radius: largest radius.
        balance: "class" draws real and fake equally, and within a class every domain equally,
            however few images it has (a replayed handful counts as much as what is new); "pairs"
            does the same, but follows a photograph by a fake of its own group, cut at the same
            place, where the data have one (then only the generator's trace tells them apart; of
            another domain only where groups span domains); "none" draws images as they come.
        domain_shares: by domain, the share of the draws of each class that it gets where the class
            has other domains too, {celeba: 0.2} say; those not named divide the rest equally. With
            pairs also of the fakes of one photograph, where these are of several domains. A class
            whose domains are all named has no rest: its domains come by turns. Not with
            `balance: none`.
        label_smoothing: as in Szegedy et al. 2016.
        ema: decay of an exponential moving average of the weights, which then are the result;
            0 keeps the last weights.
        swa: share of the steps, from the end, over whose weights the plain mean is the result, with
            batch norms measured anew (stochastic weight averaging of Izmailov et al. 2018, arXiv
            1803.05407; of every step, as in SWAD, arXiv 2102.08604, whose search for the window is
            `swad`). It needs steps that still move: `schedule: constant`, or a share well above
            the tail of the cosine. 0 for none; either this or `ema`.
        clip: largest norm of the gradient; 0 for no limit.
        checkpoint_s: seconds between checkpoints that a killed run goes on from.
    """

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    batch: Annotated[int, Field(ge=2, le=65536)] = 32
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Fraction = 0.1
    crop: Literal["random", "grid", "tiles"] = "random"
    flip: bool = True
    jpeg: Fraction = 0.0
    jpeg_quality: tuple[
        Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]
    ] = (70, 95)
    blur: Fraction = 0.0
    blur_radius: Annotated[float, Field(gt=0, le=10)] = 1.0
    balance: Literal["class", "pairs", "none"] = "class"
    domain_shares: dict[str, Annotated[float, Field(ge=0.001, lt=1)]] = {}
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    swa: Fraction = 0.0
    clip: Annotated[float, Field(ge=0)] = 1.0
    checkpoint_s: Annotated[float, Field(ge=0)] = 20.0

    @model_validator(mode="after")
    def _qualities_ascend(self) -> TrainSettings:
        low, high = self.jpeg_quality
        if low > high:
            raise ValueError(f"`jpeg_quality` must ascend; got {(low, high)}")
        return self

    @model_validator(mode="after")
    def _one_average(self) -> TrainSettings:
        if self.ema and self.swa:
            raise ValueError("`ema` and `swa` are two ways to average weights; set one to 0")
        return self

    @model_validator(mode="after")
    def _shares_leave_something(self) -> TrainSettings:
        if self.domain_shares and self.balance == "none":
            raise ValueError("`domain_shares` needs `balance: class` or `pairs`; got none")
        if (total := sum(self.domain_shares.values())) >= 1:
            raise ValueError(
                f"`domain_shares` must leave something to other domains; they add up to {total:g}"
            )
        return self

    def lr_at(self, step: int) -> float:
        """Return the learning rate of step `step` (0-based)."""
        import math

        if self.schedule == "constant":
            return self.lr
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.lr * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))
