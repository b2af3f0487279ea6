"""Settings of a system that is entered with a refresh grant, or with a token that somebody else renews.

Room rules: settings only; `oauth` is what uses them.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from connectors.sdk.oauth import Grant
from connectors.sdk.settings import ConnectorSettings

__all__ = ["GrantSettings"]


class GrantSettings(ConnectorSettings):
    """Base of a system's own settings: exactly one of the two ways to a token must be set."""

    access_token: Annotated[SecretStr | None, Field(description="A token that somebody else renews")] = None
    oauth_client_id: Annotated[str, Field(description="For the refresh grant")] = ""
    oauth_client_secret: Annotated[SecretStr | None, Field(description="For the refresh grant")] = None
    refresh_token: Annotated[SecretStr | None, Field(description="For the refresh grant")] = None

    @model_validator(mode="after")
    def _has_one_way_to_a_token(self) -> Self:
        grant = (self.oauth_client_id, self.oauth_client_secret, self.refresh_token)
        if self.access_token is None and not all(grant):
            raise ValueError("set access_token, or all of oauth_client_id, oauth_client_secret and refresh_token")
        if self.access_token is not None and any(grant):
            raise ValueError("set access_token or the refresh grant, not both")
        return self

    @property
    def grant(self) -> Grant:
        """Return the refresh grant. The validator has seen to it that it is whole where no access token is set."""
        assert self.oauth_client_secret is not None
        assert self.refresh_token is not None
        secret, refresh = self.oauth_client_secret.get_secret_value(), self.refresh_token.get_secret_value()
        return Grant(self.oauth_client_id, secret, refresh)
