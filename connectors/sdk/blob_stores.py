"""Where results lie in this installation: folders below the state folder, or a bucket if `DSR_BLOBS_ENDPOINT` names one.

Room rules: composition only; connectors, `dsr access-package` and `dsr blobs` read the same settings.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import httpx
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from connectors.sdk.blobs import BlobStore, FolderOfBlobs, folder_of
from connectors.sdk.clock import Clock, SystemClock
from connectors.sdk.destinations import Destinations
from connectors.sdk.http import new_client
from connectors.sdk.s3 import Bucket, S3Blobs
from connectors.sdk.settings import ConnectorSettings, content_of
from connectors.sdk.sigv4 import SigV4
from schemas.errors import ConfigurationError

__all__ = ["BlobSettings", "BlobStores"]


class BlobSettings(ConnectorSettings):
    """An S3-compatible store for results. Without an endpoint they lie in folders."""

    model_config = SettingsConfigDict(env_prefix="DSR_BLOBS_")

    endpoint: Annotated[str | None, Field(description="https://host, without bucket; nothing: folders")] = None
    bucket: Annotated[
        str | None, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="Must not keep versions")
    ] = None
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$", description="As the store calls it")] = "us-east-1"
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,80}$", description="First part of every key")] = "results"
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    secret_access_key_file: Annotated[Path | None, Field(description="The same, in a file")] = None
    private: Annotated[bool, Field(description="The store is in our own network: a private address, or http")] = False
    ca_file: Annotated[Path | None, Field(description="PEM file of who signs the store's certificate")] = None
    conditional_put: Annotated[bool, Field(description="Off for stores that answer 501 to If-None-Match")] = True

    def signing(self, clock: Clock) -> SigV4:
        """Return what signs. Raises `ConfigurationError`."""
        secret = self.secret_access_key
        if secret is None and self.secret_access_key_file is not None:
            secret = SecretStr(content_of(self.secret_access_key_file, "DSR_BLOBS_SECRET_ACCESS_KEY_FILE").decode().strip())
        if self.access_key_id is None or secret is None:
            raise ConfigurationError("DSR_BLOBS_ACCESS_KEY_ID and DSR_BLOBS_SECRET_ACCESS_KEY_FILE: set both for a bucket")
        return SigV4(self.access_key_id, secret, region=self.region, clock=clock)


class BlobStores:
    """The stores of all systems."""

    def __init__(self, settings: BlobSettings, state: Path, *, kept_days: int = 1, clock: Clock | None = None) -> None:
        """`kept_days` matters to who keeps. Raises `ConfigurationError` for half a bucket."""
        if (settings.endpoint is None) != (settings.bucket is None):
            raise ConfigurationError("DSR_BLOBS_ENDPOINT and DSR_BLOBS_BUCKET: set both for a bucket, none for folders")
        self._state = state
        self._kept_days = kept_days
        self._prefix = settings.prefix
        self._client: httpx.AsyncClient | None = None
        self._bucket: Bucket | None = None
        if settings.endpoint is not None and settings.bucket is not None:
            clock = clock or SystemClock()
            self._client = _client(settings, settings.endpoint, clock)
            self._bucket = Bucket(self._client, settings.bucket, clock, conditional=settings.conditional_put)

    def of(self, system: str) -> BlobStore:
        """Return a system's store."""
        if self._bucket is None:
            return FolderOfBlobs(folder_of(self._state, system), kept_days=self._kept_days)
        return S3Blobs(self._bucket, f"{self._prefix}/{system}/", kept_days=self._kept_days)

    async def systems(self) -> list[str]:
        """Return the systems of which something is kept, or was."""
        if self._bucket is None:
            return sorted(folder.name.removesuffix(".results") for folder in self._state.glob("*.results"))
        return await self._bucket.folders(f"{self._prefix}/")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()


def _client(settings: BlobSettings, endpoint: str, clock: Clock) -> httpx.AsyncClient:
    """Return a client that reaches the one host and nothing else."""
    host = urlsplit(endpoint).hostname or ""
    tls = None if settings.ca_file is None else ssl.create_default_context(cafile=str(settings.ca_file))
    return new_client(
        endpoint.rstrip("/"),
        auth=settings.signing(clock),
        timeout_seconds=60.0,
        transport=Destinations([host], private=[host] if settings.private else [], tls=tls),
    )
