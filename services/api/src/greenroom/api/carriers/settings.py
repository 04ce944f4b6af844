"""Accounts at telephone carriers, from the environment. A carrier without its settings isn't offered."""

from typing import Annotated

import msgspec

from greenroom.common.settings import Env, ServiceSettings


class CarrierSettings(ServiceSettings, frozen=True, kw_only=True):
    """What a service that speaks with carriers can be told, beside what every service can."""

    twilio_account_sid: Annotated[str | None, Env(help="Account at Twilio; unset: no calls over Twilio")] = None
    twilio_auth_token: Annotated[
        str | None, Env(help="Its auth token: signs webhooks, makes and ends calls", secret=True)
    ] = None
    twilio_api_url: Annotated[str, Env(help="Twilio's API; regions have their own")] = "https://api.twilio.com"

    telnyx_api_key: Annotated[str | None, Env(help="API key at Telnyx; unset: no calls over Telnyx", secret=True)] = (
        None
    )
    telnyx_public_key: Annotated[
        str | None, Env(help="Telnyx' public key (base64), which webhooks are checked with")
    ] = None
    telnyx_account_sid: Annotated[str | None, Env(help="Account at Telnyx, for calls to be made and handed over")] = (
        None
    )
    telnyx_application_id: Annotated[str | None, Env(help="TeXML application at Telnyx, for calls to be made")] = None
    telnyx_api_url: Annotated[str, Env(help="Telnyx' API")] = "https://api.telnyx.com"

    plivo_auth_id: Annotated[str | None, Env(help="Account at Plivo; unset: no calls over Plivo")] = None
    plivo_auth_token: Annotated[
        str | None, Env(help="Its auth token: signs webhooks, makes and ends calls", secret=True)
    ] = None
    plivo_api_url: Annotated[str, Env(help="Plivo's API")] = "https://api.plivo.com"

    exotel_account_sid: Annotated[str | None, Env(help="Account at Exotel; unset: no calls over Exotel")] = None
    exotel_api_key: Annotated[str | None, Env(help="Its API key", secret=True)] = None
    exotel_api_token: Annotated[str | None, Env(help="Its API token", secret=True)] = None
    exotel_webhook_token: Annotated[
        str | None, Env(help="What Exotel's webhooks have to bring, as they aren't signed", secret=True)
    ] = None
    exotel_api_url: Annotated[str, Env(help="Exotel's API; regions have their own")] = "https://api.exotel.com"

    vobiz_auth_id: Annotated[str | None, Env(help="Account at Vobiz; unset: no calls over Vobiz")] = None
    vobiz_auth_token: Annotated[
        str | None, Env(help="Its auth token: signs webhooks, makes and ends calls", secret=True)
    ] = None
    vobiz_api_url: Annotated[str, Env(help="Vobiz' API")] = "https://api.vobiz.ai"

    call_answer_s: Annotated[
        float,
        msgspec.Meta(gt=0, le=10),
        Env(help="How long a phone call may wait for a slot before it is held or refused; carriers bound it"),
    ] = 2.0
    call_hold_pause_s: Annotated[
        int, msgspec.Meta(ge=1, le=60), Env(help="How long a phone call that is held waits before it asks again")
    ] = 5
