"""A classifier as MLflow serves it; MLflow runs this file, so that no pickle is loaded."""

from pathlib import Path

import mlflow.models
import numpy as np
import torch
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from decrop.classifiers.storage import load_stored_classifier


class ServedClassifier(PythonModel):
    """Answers each image with the logits of a stored classifier."""

    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        torch.set_num_threads(1)
        self._classifier, _ = load_stored_classifier(Path(context.artifacts["classifier"]))

    @torch.inference_mode()
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        images = torch.from_numpy(np.asarray(model_input, dtype=np.float32))
        return self._classifier(images).numpy()


mlflow.models.set_model(ServedClassifier())
