"""Models in MLflow's registry."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def register_version(
    client: "MlflowClient",
    name: str,
    *,
    source: str,
    run_id: str,
    description: str,
    champion: str,
    previous: str,
) -> int:
    """Register a run's artifact as a new version of a model and let it have an alias.

    Args:
        client: of MLflow.
        name: of the registered model, made if there is none.
        source: address of the artifact.
        run_id: of the run.
        description: of the version.
        champion: the alias; the version that had it before loses it.
        previous: the alias that this one gets instead.

    Returns:
        the version's number.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    before = client.get_registered_model(name).aliases.get(champion)
    created = client.create_model_version(name, source, run_id, description=description)
    if before is not None:
        client.set_registered_model_alias(name, previous, str(before))
    client.set_registered_model_alias(name, champion, created.version)
    return int(created.version)
