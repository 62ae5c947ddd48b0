"""Where the files that a run shows are copied to."""

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from tune.tracking.mirror import RunMirror

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


class Artifacts(Protocol):
    """A place for artifacts."""

    def log(self, run: RunMirror, name: str, path: Path) -> None:
        """Log a file, or all files of a folder, as the artifact of a name that ends as theirs."""


class ServerArtifacts:
    """Artifacts where an MLflow server wants them."""

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def log(self, run: RunMirror, name: str, path: Path) -> None:
        """See `Artifacts.log`."""
        if path.is_dir():
            self._client.log_artifacts(run.id, str(path), name)
        else:
            self._client.log_artifact(run.id, str(path), _parent(name))


class FolderArtifacts:
    """Artifacts in a folder that a server is given as its destination later.

    A run's address is relative to that destination, wherever the folder lies by then.
    """

    def __init__(self, destination: Path) -> None:
        self._destination = destination

    def log(self, run: RunMirror, name: str, path: Path) -> None:
        """See `Artifacts.log`."""
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        place = self._destination / urlsplit(run.artifact_uri).path.lstrip("/")
        repository = LocalArtifactRepository(str(place.resolve()))
        if path.is_dir():
            repository.log_artifacts(str(path), name)  # type: ignore[no-untyped-call]
        else:
            repository.log_artifact(str(path), _parent(name))  # type: ignore[no-untyped-call]


def _parent(name: str) -> str | None:
    folder = str(PurePosixPath(name).parent)
    return None if folder == "." else folder
