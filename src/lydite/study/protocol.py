"""A protocol: which folds a study is repeated over, said in one line instead of fold by fold."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from lydite.config import Frozen
from lydite.errors import unknown_name

Kind = Literal[
    "seen-unseen",
    "leave-one-domain-out",
    "leave-one-generator-out",
    "leave-one-family-out",
    "pairwise",
    "real-against-real",
]
#: kinds with one fold, whose seen domains are given
GIVEN: tuple[Kind, ...] = ("seen-unseen", "real-against-real")
#: kinds whose folds hold something out in turn
TURNS: tuple[Kind, ...] = (
    "leave-one-domain-out",
    "leave-one-generator-out",
    "leave-one-family-out",
)


class Protocol(Frozen):
    """How folds are made of the manifest at hand; see `lydite.study.expand`.

    Attributes:
        kind: "seen-unseen" and "real-against-real": one fold, `seen` is learned and all other
            domains are not; the second is reported by what detectors make of photographs alone.
            "leave-one-domain-out", "leave-one-generator-out", "leave-one-family-out": a fold for
            each, which learns all the others. "pairwise": a fold for each domain, which learns
            that one alone.
        domains: those that the protocol ranges over; all that are neither `test_only` nor the
            study's `source` unless given. All other domains are tested on and never learned.
        test_only: domains that are tested on and never learned.
        seen: domains to learn, for the kinds with one fold.
        hold_out: domains, generators or families to hold out in turn; each there is unless given.
        families: generators of a family by name or pattern ("stargan*"), before the built-in
            table; for "leave-one-family-out".

    >>> Protocol(kind="leave-one-domain-out", test_only=("starganv2",)).kind
    'leave-one-domain-out'
    """

    kind: Kind
    domains: tuple[str, ...] = ()
    test_only: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    hold_out: tuple[str, ...] = ()
    families: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = {}

    @field_validator("kind", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in get_args(Kind):
            raise ValueError(unknown_name("protocol", value, get_args(Kind)))
        return value

    @model_validator(mode="after")
    def _options_fit(self) -> Protocol:
        if (self.kind in GIVEN) != bool(self.seen):
            need = "needs" if self.kind in GIVEN else "takes no"
            raise ValueError(f"{self.kind} {need} `seen`: the domains to learn")
        fit = {
            "domains": self.kind not in GIVEN,
            "hold_out": self.kind in TURNS,
            "families": self.kind == "leave-one-family-out",
        }
        for option, fits in fit.items():
            if getattr(self, option) and not fits:
                raise ValueError(f"{self.kind} takes no `{option}`; leave it out")
        for name in ("domains", "test_only", "seen", "hold_out"):
            given = getattr(self, name)
            if len(set(given)) != len(given):
                raise ValueError(f"`{name}` names one twice")
        for name in ("domains", "seen"):
            if both := sorted(set(getattr(self, name)) & set(self.test_only)):
                raise ValueError(f"'{both[0]}' stands in both `{name}` and `test_only`")
        return self
