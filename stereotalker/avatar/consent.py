"""Consent to the use of a portrait: who gave it, for which purpose, and until when."""

from __future__ import annotations

from datetime import date

from pydantic import Field

from stereotalker.errors import ClipError
from stereotalker.media.photos import is_picture
from stereotalker.validation import StrictModel


class Consent(StrictModel):
    """Consent to the use of a portrait: who gave it, for which purpose, and until when."""

    holder: str = Field(min_length=1, description="whose face it is, or who may speak for them")
    scope: str = Field(min_length=1, description="what it may be used for")
    expires: date | None = Field(None, description="the last day; null: none")
    withdrawn: date | None = Field(None, description="the day on which it was withdrawn; null: it was not")

    def covers(self, day: date) -> bool:
        """Whether a clip may be made on a day."""
        return (self.expires is None or day <= self.expires) and (self.withdrawn is None or day < self.withdrawn)


def check_consent(avatar: str, consent: Consent | None, required: bool, today: date) -> None:
    """Raise ClipError if a person's face would be used without consent.

    avatar: the name of an avatar, or a picture's path. Expired consent is refused even where none is required.
    """
    advice = (
        "give the clip `consent: {holder, scope, expires}`"
        if is_picture(avatar)
        else "add it again with --consent-holder and --consent-scope"
    )
    if consent is not None and consent.withdrawn is not None and consent.withdrawn <= today:
        raise ClipError(f"avatar {avatar!r}: {consent.holder} withdrew the consent on {consent.withdrawn}")
    if consent is not None and not consent.covers(today):
        raise ClipError(
            f"avatar {avatar!r}: the consent of {consent.holder} ended on {consent.expires}; renew it, and {advice}"
        )
    if required and consent is None:
        raise ClipError(f"avatar {avatar!r} has no consent, and produce.require_consent is on; {advice}")
