"""The experiment of runs in MLflow: its name, its description and its page."""

import hashlib
from typing import TYPE_CHECKING, Protocol

from tune.directory import SweepDirectory, SweepRecord
from tune.mlflow.client import TrackingError
from tune.mlflow.views import page_state, sweep_description
from tune.mlflow.writer import KEY_TAG
from tune.space import reference_config, varied_paths

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

_NOTE_TAG = "mlflow.note.content"
# Hashes of the descriptions that were written last: another one is somebody's own and stays.
_NOTE_HASHES_TAG = "decrop.note"
# A saved view of the experiment's page, named in its address: without it MLflow shows a chart for
# each metric, of no more than the first ten runs.
_VIEW = "all-trials"
_STATE_TAG = f"mlflow.sharedViewState.{_VIEW}"

# Limit of stores of servers before 3.
_TAG_CHARACTERS = 5000


def experiment_page(experiment_id: str) -> str:
    """Return the path of MLflow's page that opens on the charts of all runs."""
    return (
        f"/#/experiments/{experiment_id}/runs"
        f"?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={_VIEW}"
    )


class ShownExperiment(Protocol):
    """An experiment that is made where there is none."""

    def find(self) -> "Experiment | None":
        """Look the experiment up, also a deleted one; None where it was never made."""
        ...

    def open(self) -> "Experiment":
        """Return the experiment; the first call looks it up, or makes it.

        Raises:
            TrackingError: somebody deleted it.
        """
        ...

    def sync(self) -> None:
        """Bring up to date what its page says."""


class NamedExperiment:
    """An experiment that several share, found by its name; its page is left as it was made."""

    def __init__(self, client: "MlflowClient", name: str, artifact_location: str | None) -> None:
        """Remember where to look; `artifact_location` is for a new one, the server's if None."""
        self._client = client
        self._name = name
        self._artifact_location = artifact_location
        self._opened: Experiment | None = None

    def find(self) -> "Experiment | None":
        """See `ShownExperiment`."""
        return self._client.get_experiment_by_name(self._name)

    def open(self) -> "Experiment":
        """See `ShownExperiment`."""
        if self._opened is None:
            self._opened = active(self.find() or self._create())
        return self._opened

    def sync(self) -> None:
        """See `ShownExperiment`."""
        self.open()

    def _create(self) -> "Experiment":
        from mlflow.exceptions import MlflowException

        try:
            identity = self._client.create_experiment(
                self._name,
                artifact_location=self._artifact_location,
                tags={_STATE_TAG: page_state([], trains_classifier=True)},
            )
        except MlflowException:
            # Another process may have made it meanwhile.
            found = self.find()
            if found is None:
                raise
            return found
        return self._client.get_experiment(identity)


class SweepExperiment:
    """The one experiment of a sweep, found by its tag."""

    def __init__(
        self,
        client: "MlflowClient",
        directory: SweepDirectory,
        record: SweepRecord,
        artifact_location: str | None,
    ) -> None:
        """Remember where to look; `artifact_location` is for a new one, the server's if None."""
        self._client = client
        self._directory = directory
        self._record = record
        self._artifact_location = artifact_location
        self._opened: Experiment | None = None

    def find(self) -> "Experiment | None":
        """Look the experiment up, also a deleted one; None where it was never made."""
        from mlflow.entities import ViewType

        found = self._client.search_experiments(
            view_type=ViewType.ALL, filter_string=f"tags.`{KEY_TAG}` = '{self._key}'"
        )
        return found[0] if found else None

    def open(self) -> "Experiment":
        """Return the experiment; the first call looks it up, or makes it.

        Raises:
            TrackingError: somebody deleted it.
        """
        if self._opened is None:
            experiment = self.find()
            if experiment is None:
                experiment = self._create()
            self._opened = active(experiment)
        return self._opened

    def sync(self) -> None:
        """Bring description and view up to date, unless the description is somebody's own."""
        known = self.open()
        note, state = self._note(), self._page()
        if (known.tags.get(_NOTE_TAG), known.tags.get(_STATE_TAG)) == (note, state):
            return
        client, identity = self._client, known.experiment_id
        current = client.get_experiment(identity)
        found = _hash(current.tags.get(_NOTE_TAG, ""))
        if found in current.tags.get(_NOTE_HASHES_TAG, "").split() and found != _hash(note):
            # Both, so that a break before the description is written leaves one that is known.
            client.set_experiment_tag(identity, _NOTE_HASHES_TAG, f"{found} {_hash(note)}")
            client.set_experiment_tag(identity, _NOTE_TAG, note)
        if current.tags.get(_STATE_TAG) != state:
            client.set_experiment_tag(identity, _STATE_TAG, state)
        # What there is to be shown, were it not for somebody's own description.
        known.tags.update({_NOTE_TAG: note, _STATE_TAG: state})

    @property
    def _key(self) -> str:
        return f"{self._record.id}/experiment"

    def _create(self) -> "Experiment":
        client = self._client
        name = f"{self._record.name} {self._record.created:%Y-%m-%d %H:%M:%S}"
        if client.get_experiment_by_name(name) is not None:
            name = f"{name} {self._record.id}"
        experiment_id = client.create_experiment(
            name,
            artifact_location=self._artifact_location,
            tags={
                KEY_TAG: self._key,
                _NOTE_TAG: self._note(),
                _NOTE_HASHES_TAG: _hash(self._note()),
                _STATE_TAG: self._page(),
            },
        )
        return client.get_experiment(experiment_id)

    def _page(self) -> str:
        sweep = self._record.sweep
        trains = reference_config(sweep).trains_classifier
        return page_state(varied_paths(sweep), trains_classifier=trains)

    def _note(self) -> str:
        return _shortened(sweep_description(self._directory, self._record))


def active(experiment: "Experiment") -> "Experiment":
    """Return an experiment unless it is deleted.

    Raises:
        TrackingError: somebody deleted it.
    """
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"MLflow's experiment {experiment.name!r} was deleted; restore it there "
            f"(id {experiment.experiment_id}) to see its runs again."
        )
    return experiment


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _shortened(text: str) -> str:
    if len(text) <= _TAG_CHARACTERS:
        return text
    ending = "\n…\n```\n"
    return text[: _TAG_CHARACTERS - len(ending)] + ending
