"""Consent: by whose leave a portrait is used, for what, and until when."""

from __future__ import annotations

from datetime import date

from pydantic import Field

from stereotalker.errors import ClipError
from stereotalker.media.photos import is_picture
from stereotalker.validation import StrictModel


class Consent(StrictModel):
    """By whose leave a portrait is used, for what, and until when."""

    holder: str = Field(min_length=1, description="whose face it is, or who may speak for them")
    scope: str = Field(min_length=1, description="what it may be used for")
    expires: date | None = Field(None, description="the last day; null: none")


def check_consent(avatar: str, consent: Consent | None, required: bool, today: date) -> None:
    """Raises ClipError where a person's face would be used without leave. Consent that has run out is refused even where none is required."""
    how = (
        "give the clip `consent: {holder, scope, expires}`"
        if is_picture(avatar)
        else "add it again with --consent-holder and --consent-scope"
    )
    if consent is not None and consent.expires is not None and consent.expires < today:
        raise ClipError(
            f"avatar {avatar!r}: the consent of {consent.holder} ended on {consent.expires}; renew it, and {how}"
        )
    if required and consent is None:
        raise ClipError(f"avatar {avatar!r} has no consent, and produce.require_consent is on; {how}")
