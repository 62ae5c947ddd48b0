"""An S3 store of the tests' own: moto's server, on loopback, in memory."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3

from tests.mlflow_server.processes import START_SECONDS, eventually, free_port, is_free

SECRET_KEY = "secret-key-of-the-object-store"
BUCKET = "artifacts"


@dataclass(frozen=True)
class ObjectStore:
    """Where the store answers, and how a client signs in."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 and MLflow read of it."""
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "mlflow",
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def keys(self) -> list[str]:
        """The names of all objects in the bucket."""
        listing = self.client().list_objects_v2(Bucket=BUCKET)
        return [entry["Key"] for entry in listing.get("Contents", [])]

    def client(self) -> Any:
        """A client of the store's own API."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="mlflow",
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )


@contextmanager
def running_object_store() -> Iterator[ObjectStore]:
    """An empty store with one bucket; gone at the end."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: not is_free(port), START_SECONDS)
        store = ObjectStore(f"http://127.0.0.1:{port}")
        store.client().create_bucket(Bucket=BUCKET)
        yield store
    finally:
        process.kill()
        process.wait()
