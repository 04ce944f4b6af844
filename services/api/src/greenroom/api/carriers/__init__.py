"""The carriers that this installation is set up with."""

from collections.abc import Iterator

from greenroom.api.carriers import exotel, telnyx
from greenroom.api.carriers.base import Carrier
from greenroom.api.carriers.exotel import Exotel
from greenroom.api.carriers.plivo import Plivo
from greenroom.api.carriers.settings import CarrierSettings
from greenroom.api.carriers.telnyx import Telnyx
from greenroom.api.carriers.twilio import Twilio
from greenroom.api.carriers.vobiz import Vobiz


def make_carriers(settings: CarrierSettings) -> dict[str, Carrier]:
    """Return the carriers by name: those whose settings are all there."""
    return {carrier.name: carrier for carrier in _made(settings)}


def _made(settings: CarrierSettings) -> Iterator[Carrier]:
    if settings.twilio_account_sid and settings.twilio_auth_token:
        yield Twilio(settings.twilio_account_sid, settings.twilio_auth_token, settings.twilio_api_url)
    if settings.telnyx_api_key and settings.telnyx_public_key:
        yield Telnyx(
            telnyx.Account(
                api_key=settings.telnyx_api_key,
                public_key=settings.telnyx_public_key,
                account_sid=settings.telnyx_account_sid or "",
                application_id=settings.telnyx_application_id or "",
                api_url=settings.telnyx_api_url,
            )
        )
    if settings.plivo_auth_id and settings.plivo_auth_token:
        yield Plivo(settings.plivo_auth_id, settings.plivo_auth_token, settings.plivo_api_url)
    if (
        settings.exotel_account_sid
        and settings.exotel_api_key
        and settings.exotel_api_token
        and settings.exotel_webhook_token
    ):
        yield Exotel(
            exotel.Account(
                account_sid=settings.exotel_account_sid,
                api_key=settings.exotel_api_key,
                api_token=settings.exotel_api_token,
                webhook_token=settings.exotel_webhook_token,
                api_url=settings.exotel_api_url,
            )
        )
    if settings.vobiz_auth_id and settings.vobiz_auth_token:
        yield Vobiz(settings.vobiz_auth_id, settings.vobiz_auth_token, settings.vobiz_api_url)
