"""The certificates of a bundle once more, on the data that it does not carry."""

from typing import Literal

import numpy as np
import torch

from decrop.bundle.layout import CARD, CERTIFICATES, CLASSIFIER
from decrop.bundle.load import Bundle
from decrop.bundle.model_card import misquotes
from decrop.config import TrialConfig
from decrop.data.datasets import load_dataset
from decrop.data.limited import (
    LabelledImages,
    LimitedData,
    evenly_spaced,
    limited_data,
    take_recorded,
)
from decrop.documents import show
from decrop.errors import InputError
from decrop.evaluation.table import CertificateTable
from decrop.smoothing.execution import resolve_device
from decrop.training.hooks import NO_HOOKS, Hooks
from decrop.trial.certify import CertificationTask
from decrop.trial.several_sigmas import certify_at_sigmas

# In sigmas: another build of scipy may round a quantile otherwise.
_RADIUS_ROUNDING = 1e-9


def limited_data_of(bundle: Bundle, *, dataset_path: str | None = None) -> LimitedData:
    """Draw the limited data of a bundle again.

    Args:
        dataset_path: folder of the dataset, where it has one.
    """
    settings = bundle.config.dataset.model_copy(update={"path": dataset_path})
    limited = limited_data(load_dataset(settings), bundle.config.limited)
    if limited.all.content_hash() != bundle.result.hashes["limited_data"]:
        raise InputError(
            f"dataset.path: the images of {dataset_path or settings.name} are not those that the "
            "denoiser was trained on; give the dataset of the bundle with --dataset-path."
        )
    return limited


def verify_bundle(
    bundle: Bundle,
    *,
    dataset_path: str | None = None,
    card: str | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    hooks: Hooks = NO_HOOKS,
) -> int:
    """Repeat the recorded certificates and return how many are identical, time aside.

    Those of all tables (`Bundle.tables`) are counted, where they are of several sigmas.

    Args:
        dataset_path: folder of the dataset, where it has one.
        card: text of the bundle's README.md, whose figures are compared with the certificates.
        device: to compute on; the recorded kind if None. On another kind the certified function has
            other last bits, so that not all certificates need be identical.

    Raises:
        InputError: the data are not those the certificates were computed on, the images not those
            that the settings name, a label or a figure of the card another one, or the device is
            not here.
    """
    if card is not None and misquotes(
        card, bundle.config, bundle.result, bundle.estimation_samples
    ):
        raise InputError(f"{CARD}: its figures are not those of the certificates.")
    config = bundle.config.model_copy(
        update={"dataset": bundle.config.dataset.model_copy(update={"path": dataset_path})}
    )
    if device is not None:
        execution = config.execution.model_copy(update={"device": resolve_device(device).type})
        config = config.model_copy(update={"execution": execution})
    images = _certified_images(config, bundle)
    task = CertificationTask(bundle.network, images, bundle.result.split, len(bundle.class_names))
    if bundle.sigma_tables is None:
        config = config.at_sigma(config.sigma)
    found = certify_at_sigmas(
        config, task, estimation_samples=bundle.estimation_samples, hooks=hooks
    )
    tables = [found.own.table] if found.tables is None else found.tables.named().values()
    return sum(
        _identical(table, recorded, config.sigma)
        for table, recorded in zip(tables, bundle.tables.values(), strict=True)
    )


def _identical(table: CertificateTable, recorded: CertificateTable, sigma: float) -> int:
    same = (table.predict == recorded.predict) & (
        np.abs(table.radius - recorded.radius) <= _RADIUS_ROUNDING * sigma
    )
    for name in ("selected", "sigma"):
        if getattr(recorded, name) is not None:
            same = same & (getattr(table, name) == getattr(recorded, name))
    return int(np.count_nonzero(same))


def _certified_images(config: TrialConfig, bundle: Bundle) -> LabelledImages:
    dataset = load_dataset(config.dataset)
    on_test = bundle.result.split == "test"
    source = dataset.test if on_test else dataset.train
    indices = torch.from_numpy(bundle.certificates.idx.astype(np.int64))
    images = take_recorded(
        source,
        indices,
        bundle.result.hashes["certified_images"],
        named=config.dataset.path or config.dataset.name,
    )
    if on_test:
        named = evenly_spaced(dataset.test, config.certification.test_images)
    else:
        named = limited_data(dataset, config.limited).held_out
    if not torch.equal(indices, named.indices):
        raise InputError(
            f"{CERTIFICATES}: the certified images are not those that the settings name; "
            f"{len(set(named.indices.tolist()) - set(indices.tolist()))} of {len(named)} are "
            "missing."
        )
    if wrong := np.flatnonzero(bundle.certificates.label != images.labels.numpy()).tolist():
        row = wrong[0]
        raise InputError(
            f"{CERTIFICATES}: image {int(indices[row])} has label "
            f"{bundle.certificates.label[row]}, but {int(images.labels[row])} in the data."
        )
    names = zip(bundle.class_names, dataset.class_names, strict=False)
    for number, (ours, theirs) in enumerate(names):
        if ours != theirs:
            raise InputError(
                f"{CLASSIFIER}: class {number} is named {show(ours)}, but {show(theirs)} in the "
                "data."
            )
    return images
