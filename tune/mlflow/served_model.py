"""A bundle as MLflow serves it; MLflow runs this file, so that no pickle is loaded."""

from typing import Literal

import mlflow.models
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

import decrop
from decrop.errors import InputError


class ServedBundle(PythonModel):
    """Answers each image with a class, a certified radius, and whether it abstains."""

    # MLflow has no type hint for images, and would ask for one whenever the model is loaded.
    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle that lies beside the model."""
        # A host that serves may have no GPU like that on which the bundle was certified.
        device: Literal["cpu"] | None = None if torch.cuda.is_available() else "cpu"
        bundle = context.artifacts["bundle"]
        # Whoever loads a model of MLflow's trusts its code, which is this file.
        self._smoothed = decrop.load(bundle, device=device, trust_code=True)

    # MLflow would take annotations for a schema of its own.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Certify images by the bundle's procedure, one row each.

        Args:
            model_input: array, float32 [B, C, H, W] in [0,1].

        Returns:
            `label`: name of the class, empty where it abstains. `class`: its number, or -1.
            `radius`: certified L2 radius in [0,1] pixels, 0 where it abstains. `abstain`: bool.
        """
        try:
            certified = self._smoothed.certify(np.asarray(model_input))
        except InputError as error:
            # The server's answer says nothing of other errors but where they were raised.
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        names = self._smoothed.class_names
        abstain = certified.prediction < 0
        return pd.DataFrame(
            {
                "label": ["" if i < 0 else names[i] for i in certified.prediction.tolist()],
                "class": certified.prediction,
                "radius": np.where(abstain, 0.0, certified.radius),
                "abstain": abstain,
            }
        )


mlflow.models.set_model(ServedBundle())
