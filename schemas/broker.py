"""How to reach a Kafka broker: one set of settings for worker, commands and connectors, and what a client makes of them.

Both sides read the same variables; each brings what touches the world (files, TLS, HTTP) as functions.

Source: RFC 6749 section 4.4 (client credentials), RFC 7628 (OAUTHBEARER), RFC 5802 (SCRAM).

Room rules: names, defaults and their consistency; opens no file and no connection; a secret is a `SecretStr`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr

from schemas.errors import ConfigurationError

__all__ = ["LOCAL_HOSTS", "OPEN", "BrokerReach", "SaslMechanism", "SecurityProtocol", "TokenGrant", "not_reached"]

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]

#: The options of a broker that asks nobody who he is.
OPEN: Mapping[str, Any] = MappingProxyType({})

_OAUTH = ("sasl_oauth_token_url", "sasl_oauth_client_id")
#: What does not leave this machine.
LOCAL_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
#: A token is renewed this long before it ends, so that it does not end under way.
_MARGIN_SECONDS = 60.0


class BrokerReach(BaseModel):
    """Settings that say how to reach a broker; settings classes of both sides inherit them under their own prefix."""

    kafka_bootstrap: Annotated[str, Field(description="Brokers, host:port with commas")] = "127.0.0.1:9092"
    security_protocol: Annotated[
        SecurityProtocol, Field(description="SASL_SSL in production; PLAINTEXT sends everything in clear")
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[SaslMechanism, Field(description="How we say who we are, with SASL_*")] = "SCRAM-SHA-512"
    sasl_username: Annotated[str | None, Field(description="Our principal's name, for instance system-crm")] = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Annotated[Path | None, Field(description="A file that holds the password, instead")] = None
    sasl_oauth_token_url: Annotated[str | None, Field(description="Token endpoint (https), for OAUTHBEARER")] = None
    sasl_oauth_client_id: str | None = None
    sasl_oauth_client_secret: SecretStr | None = None
    sasl_oauth_client_secret_file: Annotated[Path | None, Field(description="A file that holds the secret, instead")] = None
    sasl_oauth_scope: str | None = None
    ssl_ca_file: Annotated[Path | None, Field(description="PEM roots to trust; none: the system's")] = None
    ssl_cert_file: Annotated[Path | None, Field(description="PEM of our certificate, for mutual TLS")] = None
    ssl_key_file: Annotated[Path | None, Field(description="PEM of its private key")] = None

    def client_options(
        self,
        *,
        tls: Callable[[BrokerReach], Any],
        read: Callable[[Path], str],
        tokens: Callable[[TokenGrant], Any],
    ) -> dict[str, Any]:
        """Return what every client of aiokafka takes to be let in, without the address.

        `tls` makes an SSL context, `read` reads a secret's file, `tokens` makes a token provider of aiokafka's kind; each is
        called only where the settings need it. Raises `ConfigurationError` that names a setting which is missing or has no
        effect. The result holds secrets: it goes to a client and nowhere else. Success does not imply that a broker answers.
        """
        self._consistent()
        options: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.security_protocol in {"SSL", "SASL_SSL"}:
            options["ssl_context"] = self._made(tls)
        if not self._uses_sasl:
            return options
        options["sasl_mechanism"] = self.sasl_mechanism
        if self.sasl_mechanism == "OAUTHBEARER":
            assert self.sasl_oauth_token_url is not None and self.sasl_oauth_client_id is not None, "checked"
            secret = self._secret("sasl_oauth_client_secret", read)
            grant = TokenGrant(
                url=self.sasl_oauth_token_url, client_id=self.sasl_oauth_client_id, secret=secret, scope=self.sasl_oauth_scope
            )
            return {**options, "sasl_oauth_token_provider": tokens(grant)}
        return {
            **options,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self._secret("sasl_password", read),
        }

    @property
    def _uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL_")

    def _variable(self, field: str) -> str:
        return f"{self.model_config.get('env_prefix') or ''}{field}".upper()

    def _consistent(self) -> None:
        oauth = self.sasl_mechanism == "OAUTHBEARER"
        if not self._uses_sasl:
            given = [name for name in type(self).model_fields if name.startswith("sasl_") and name in self.model_fields_set]
            if any(getattr(self, name) is not None and name != "sasl_mechanism" for name in given):
                # Whoever gives a password wants to be known by it, and would not be.
                raise ConfigurationError(
                    f"{self._variable('security_protocol')} is {self.security_protocol}, so the SASL settings have no effect: "
                    f"set it to SASL_SSL, or unset them"
                )
        else:
            needed = (*_OAUTH, "sasl_oauth_client_secret") if oauth else ("sasl_username", "sasl_password")
            self._needed(needed)
        if (self.ssl_cert_file is None) != (self.ssl_key_file is None):
            raise ConfigurationError(
                f"set both {self._variable('ssl_cert_file')} and {self._variable('ssl_key_file')}, or none"
            )
        if oauth and self._uses_sasl:
            self._safe_url()

    def _needed(self, names: tuple[str, ...]) -> None:
        for name in names:
            given = [one for one in (name, f"{name}_file") if getattr(self, one, None) is not None]
            if len(given) == 1:
                continue
            variable = self._variable(name)
            if given:
                raise ConfigurationError(f"set one of {variable} and {variable}_FILE, not both")
            beside = f" or {variable}_FILE" if f"{name}_file" in type(self).model_fields else ""
            raise ConfigurationError(f"set {variable}{beside}: {self.security_protocol} with {self.sasl_mechanism} needs it")

    def _safe_url(self) -> None:
        parts = urlsplit(self.sasl_oauth_token_url or "")
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS):
            raise ConfigurationError(
                f"{self._variable('sasl_oauth_token_url')}: use https, or the client secret travels in clear"
            )

    def _made(self, tls: Callable[[BrokerReach], Any]) -> Any:
        try:
            return tls(self)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            names = ", ".join(
                self._variable(name)
                for name in ("ssl_ca_file", "ssl_cert_file", "ssl_key_file")
                if getattr(self, name) is not None
            )
            raise ConfigurationError(f"{names}: cannot be used ({type(error).__name__}): name PEM files that fit") from None

    def _secret(self, name: str, read: Callable[[Path], str]) -> str:
        given, path = getattr(self, name), getattr(self, f"{name}_file")
        if path is None:
            return str(given.get_secret_value())
        try:
            text = read(path).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{self._variable(f'{name}_file')}: cannot be read ({type(error).__name__}): name another file"
            ) from None
        if not text:
            raise ConfigurationError(f"{self._variable(f'{name}_file')}: is empty: put the secret into it")
        return text


def not_reached(bootstrap: str, options: Mapping[str, Any]) -> ConfigurationError:
    """Return the error for a broker that gave no connection: the client does not say whether it was away or refused us."""
    if options.get("security_protocol", "PLAINTEXT") == "PLAINTEXT":
        return ConfigurationError(
            f"No Kafka broker answers at {bootstrap}: check DSR_KAFKA_BOOTSTRAP, or start one with `dsr kafka up`"
        )
    return ConfigurationError(
        f"No Kafka broker answers at {bootstrap}, or it does not let us in: "
        "check DSR_KAFKA_BOOTSTRAP, DSR_SECURITY_PROTOCOL and the DSR_SASL_ and DSR_SSL_ settings"
    )


class TokenGrant:
    """A client credentials grant: what to ask the token endpoint, and how long its answer is good.

    Whoever uses it brings HTTP and a monotonic clock (seconds), and calls it from one thread at a time.
    """

    def __init__(self, *, url: str, client_id: str, secret: str, scope: str | None) -> None:
        self.url = url
        self._form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        if scope is not None:
            self._form["scope"] = scope
        self._token: str | None = None
        self._renew_at = 0.0

    def form(self) -> dict[str, str]:
        """Return the fields to post. They hold the secret."""
        return dict(self._form)

    def current(self, now: float) -> str | None:
        """Return the token if it is still good, else None: ask for another."""
        return self._token if now < self._renew_at else None

    def take(self, answer: Mapping[str, Any], now: float) -> str:
        """Keep the answer of a token endpoint and return its token. Raises `ValueError` if there is none in it.

        Without `expires_in`, which RFC 6749 only recommends, it is kept until the process ends. A token that lives shorter
        than twice the margin is renewed at half its life.
        """
        token, seconds = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not token:
            raise ValueError("no access_token")
        lifetime = float(seconds) if isinstance(seconds, int | float) else math.inf
        self._token = token
        self._renew_at = now + max(lifetime - _MARGIN_SECONDS, lifetime / 2)
        return token
