"""An embedded NATS server that asks runners who session processes are."""

from pathlib import Path
from typing import Any

from greenroom.devtools.embedded.nats import EmbeddedNats
from greenroom.runner.isolation.callout import ACCOUNT


class CalloutNats(EmbeddedNats):
    """See the module.

    Args:
        folder: everything of it lies here.
        issuer: public key of whoever signs.
    """

    def __init__(self, folder: Path, issuer: str) -> None:
        super().__init__(folder)
        self._issuer = issuer

    def _config(self) -> dict[str, Any]:
        config = super()._config()
        user = config.pop("authorization")
        callout = {"issuer": self._issuer, "account": ACCOUNT, "auth_users": [user["user"]]}
        return config | {
            "accounts": {ACCOUNT: {"jetstream": "enabled", "users": [user]}},
            "authorization": {"auth_callout": callout},
        }
