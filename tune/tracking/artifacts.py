"""Where the files that a run shows are copied to."""

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from tune.tracking.mirror import RunMirror

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


class Artifacts(Protocol):
    """A place for artifacts."""

    def log(self, run: RunMirror, name: str, path: Path) -> None:
        """Log a file, or all files of a folder, as the artifact of a name that ends as theirs."""


class ServerArtifacts:
    """Artifacts where an MLflow server wants them.

    By the run's address, which a client would first ask the server for.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri

    def log(self, run: RunMirror, name: str, path: Path) -> None:
        """See `Artifacts.log`."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        _log(get_artifact_repository(run.artifact_uri, self._tracking_uri), name, path)


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
        _log(LocalArtifactRepository(str(place.resolve())), name, path)


def _log(repository: "ArtifactRepository", name: str, path: Path) -> None:
    if path.is_dir():
        repository.log_artifacts(str(path), name)  # type: ignore[no-untyped-call]
    else:
        folder = str(PurePosixPath(name).parent)
        parent = None if folder == "." else folder
        repository.log_artifact(str(path), parent)  # type: ignore[no-untyped-call]
