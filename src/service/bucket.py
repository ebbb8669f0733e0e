"""Uploaded bytes as objects in a bucket: read and written by obstore, links signed by botocore.

botocore also finds the keys where none are given: in the environment of the container, the machine
or the profile, as every program that uses AWS does.
"""

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING

import botocore.session
import obstore
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from obstore.store import ObjectStore, S3Store

from service.folder import BATCH, CHUNK_BYTES, Stored
from service.settings import Settings
from service.store_errors import ERRORS, NoCredentials, StoreAway, described, is_missing

if TYPE_CHECKING:
    from obstore import Attributes
    from obstore.store import ClientConfig, RetryConfig, S3Credential

LINK_SECONDS = 300
PART_BYTES = 5 * 1024 * 1024  # of an upload; S3 takes no smaller ones
MAX_PARTS = 10_000
KEY_SECONDS = 600  # botocore renews a key that expires at least this long before
# obstore would repeat a request for three minutes. A retry begins within retry_timeout: so none
# after a read_timeout, and a store that hangs costs that once.
RETRIES: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=6)}
# Reading: until the answer to a whole part begins, and then between its packets.
CLIENT: "ClientConfig" = {"connect_timeout": "3s", "read_timeout": "9s", "timeout": "1h"}
# Of the metadata service, and of AWS STS where a key has to be fetched there.
KEY_CLIENT = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2})
# What a browser makes of an object that it gets without one of our links.
ATTRIBUTES: "Attributes" = {
    "Content-Type": "application/octet-stream",
    "Content-Disposition": "attachment",
}


class Keys:
    """The key of the object store: that of the settings, or what botocore finds. Calls block."""

    def __init__(self, settings: Settings) -> None:
        self._given = ReadOnlyCredentials(
            settings.aws_access_key_id,
            settings.aws_secret_access_key.get_secret_value(),
            settings.aws_session_token.get_secret_value() or None,
        )
        self.session = botocore.session.Session()
        self.session.set_default_client_config(KEY_CLIENT)
        self._lock = threading.Lock()

    def current(self) -> ReadOnlyCredentials:
        """Raises NoCredentials."""
        if self._given.access_key:
            return self._given
        try:
            with self._lock:  # botocore's session is for one thread
                found = self.session.get_credentials()
            if found is not None:
                return found.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise NoCredentials(type(error).__name__) from error
        raise NoCredentials

    def __call__(self) -> "S3Credential":
        """As obstore asks for it."""
        key = self.current()
        return {
            "access_key_id": key.access_key,
            "secret_access_key": key.secret_key,
            "token": key.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=KEY_SECONDS),
        }


@dataclass(frozen=True)
class Links:
    """Makes URLs by which clients get an object from the store; needs no network for it."""

    keys: Keys
    region: str
    address: str  # of the bucket, for clients, with the prefix and without a trailing slash

    def sign(self, method: str, key: str, headers: Mapping[str, str]) -> str:
        """A URL that is good for LINK_SECONDS and this method, answered with these headers."""
        answered = {f"response-{name.lower()}": value for name, value in headers.items()}
        request = AWSRequest(method, f"{self.address}/{key}", params=answered)
        signer = S3SigV4QueryAuth(self.keys.current(), "s3", self.region, expires=LINK_SECONDS)
        signer.add_auth(request)
        return str(request.url)


class Bucket:
    """A bucket, or the part of one below a prefix. All calls block and raise obstore's errors;
    where there is nothing under a key, FileNotFoundError."""

    def __init__(self, store: ObjectStore, links: Links | None = None) -> None:
        self.store = store
        self.links = links  # None where clients are not sent to the store

    def put(self, key: str, file: IO[bytes]) -> None:
        """Store what is left to read of a file. Parts of one that fails are removed again."""
        part = max(PART_BYTES, -(-_length(file) // MAX_PARTS))
        obstore.put(
            self.store, key, file, attributes=ATTRIBUTES, chunk_size=part, max_concurrency=1
        )

    def size(self, key: str) -> int:
        """In bytes."""
        return int(obstore.head(self.store, key)["size"])

    def chunks(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Raises FileNotFoundError where not all of these bytes are there."""
        left = end - start
        if not left:
            return
        # Not every store answers a range as it should, and most readers want all of it.
        found = obstore.get(self.store, key, options={"range": (start, end)} if start else {})
        for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(chunk)[:left]
            left -= min(left, len(chunk))
            if not left:
                return
        raise FileNotFoundError("The stored object is shorter")

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        obstore.delete(self.store, key)

    def objects(self) -> Iterator[Sequence[Stored]]:
        """Every object, in batches."""
        for batch in obstore.list(self.store, chunk_size=BATCH):
            yield [Stored(found["path"], found["last_modified"].timestamp()) for found in batch]

    def tidy(self) -> None:
        """Unfinished uploads are the bucket's business: its lifecycle rules end them."""

    def ping(self) -> None:
        """Ask for an object that is not there: S3 says so to those alone who may get and list.

        Raises StoreAway.
        """
        try:
            obstore.get(self.store, "ping")
        except ERRORS as error:
            if not is_missing(error):
                raise StoreAway(described(error)) from error


def _length(file: IO[bytes]) -> int:
    """Bytes that are left to read."""
    position = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(position)
    return end - position


def open_bucket(settings: Settings) -> Bucket:
    """The bucket of MEDIA_STORE_URL. Connects on first use."""
    bucket, _, prefix = settings.media_store_url.removeprefix("s3://").partition("/")
    keys = Keys(settings)
    region = settings.aws_region or keys.session.get_config_variable("region") or "us-east-1"
    endpoint = settings.aws_endpoint_url or f"https://s3.{region}.amazonaws.com"
    in_path = settings.media_store_path_style
    if in_path is None:
        in_path = bool(settings.aws_endpoint_url) or "." in bucket  # AWS's certificate has one *
    store = S3Store(
        bucket,
        prefix=prefix or None,
        config={
            # By this name, as obstore reads it from the environment, where it wins over others.
            "aws_endpoint_url_s3": endpoint if in_path else _with_host(endpoint, bucket),
            "virtual_hosted_style_request": not in_path,
            "region": region,
            "skip_signature": False,
            "disable_bulk_delete": True,  # one at a time is what every store knows
        },
        client_options={**CLIENT, "allow_http": endpoint.startswith("http:")},
        retry_config=RETRIES,
        credential_provider=keys,
    )
    if not settings.media_store_redirect:
        return Bucket(store)
    public = settings.media_store_public_url or endpoint
    address = f"{public}/{bucket}" if in_path else _with_host(public, bucket)
    return Bucket(store, Links(keys, region, f"{address}/{prefix}".rstrip("/")))


def _with_host(endpoint: str, bucket: str) -> str:
    """The bucket as a host name of its own."""
    return endpoint.replace("://", f"://{bucket}.", 1)
