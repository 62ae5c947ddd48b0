"""The experiment of runs in MLflow: found or made, with its description and its page."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune.mlflow.client import TrackingError
from tune.mlflow.writer import KEY_TAG

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

_NOTE_TAG = "mlflow.note.content"
# Hashes of the descriptions that were written last: another one is a user's own and stays.
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


@dataclass(frozen=True)
class ExperimentView:
    """What an experiment should show.

    Attributes:
        name: of a new one.
        page: its saved view, as the value of MLflow's tag.
        key: unique, by which a sweep finds its own again; None for one that several share, which
            is found by its name and left as it was made.
        note: writes its description in Markdown, where there is a key.
        reserve_name: of a new one where another experiment has the name.
    """

    name: str
    page: str
    key: str | None = None
    note: Callable[[], str] = str
    reserve_name: str = ""


class ShownExperiment:
    """An experiment that is made where there is none."""

    def __init__(
        self, client: "MlflowClient", view: ExperimentView, artifact_location: str | None
    ) -> None:
        """Remember where to look; `artifact_location` is for a new one, the server's if None."""
        self._client = client
        self._view = view
        self._artifact_location = artifact_location
        self._opened: Experiment | None = None

    def find(self) -> "Experiment | None":
        """Look the experiment up, also a deleted one; None where it was never made."""
        from mlflow.entities import ViewType

        if self._view.key is None:
            return self._client.get_experiment_by_name(self._view.name)
        found = self._client.search_experiments(
            view_type=ViewType.ALL, filter_string=f"tags.`{KEY_TAG}` = '{self._view.key}'"
        )
        return found[0] if found else None

    def open(self) -> "Experiment":
        """Return the experiment; the first call looks it up, or makes it.

        Raises:
            TrackingError: it was deleted in MLflow.
        """
        if self._opened is None:
            experiment = self.find() or self._create()
            if experiment.lifecycle_stage != "active":
                raise TrackingError(
                    f"MLflow's experiment {experiment.name!r} was deleted; restore it there "
                    f"(id {experiment.experiment_id}) to see its runs again."
                )
            self._opened = experiment
        return self._opened

    def sync(self) -> None:
        """Bring description and page up to date, unless the description is a user's own."""
        known = self.open()
        note, client, identity = _shortened(self._view.note()), self._client, known.experiment_id
        shown = (known.tags.get(_NOTE_TAG), known.tags.get(_STATE_TAG))
        if self._view.key is None or shown == (note, self._view.page):
            return
        current = client.get_experiment(identity)
        found = _hash(current.tags.get(_NOTE_TAG, ""))
        if found in current.tags.get(_NOTE_HASHES_TAG, "").split() and found != _hash(note):
            # Both, so that a break before the description is written leaves one that is known.
            client.set_experiment_tag(identity, _NOTE_HASHES_TAG, f"{found} {_hash(note)}")
            client.set_experiment_tag(identity, _NOTE_TAG, note)
        if current.tags.get(_STATE_TAG) != self._view.page:
            client.set_experiment_tag(identity, _STATE_TAG, self._view.page)
        # What there is to be shown, were it not for a user's own description.
        known.tags.update({_NOTE_TAG: note, _STATE_TAG: self._view.page})

    def _create(self) -> "Experiment":
        from mlflow.exceptions import MlflowException

        client, name, tags = self._client, self._view.name, {_STATE_TAG: self._view.page}
        if self._view.key is not None:
            note = _shortened(self._view.note())
            tags |= {KEY_TAG: self._view.key, _NOTE_TAG: note, _NOTE_HASHES_TAG: _hash(note)}
            if client.get_experiment_by_name(name) is not None:
                name = self._view.reserve_name
        try:
            identity = client.create_experiment(
                name, artifact_location=self._artifact_location, tags=tags
            )
        except MlflowException:
            # Another process may have made it meanwhile.
            found = self.find()
            if found is None:
                raise
            return found
        return client.get_experiment(identity)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _shortened(text: str) -> str:
    if len(text) <= _TAG_CHARACTERS:
        return text
    ending = "\n…\n```\n"
    return text[: _TAG_CHARACTERS - len(ending)] + ending
