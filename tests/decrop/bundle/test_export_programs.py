"""Bundles with programs and a licence in them."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from decrop.bundle import load_bundle
from decrop.errors import InputError
from decrop.files import read_json
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from tests.decrop.digits_trial import export, files_in


@pytest.mark.slow
def test_programs_are_part_of_the_bundle(
    final_trial: TrialFolder, inputs: TrialInputs, exported: Path, tmp_path: Path
) -> None:
    path = export(
        final_trial,
        inputs,
        tmp_path / "bundle",
        onnx=True,
        torch_export=True,
        license_id="apache-2.0",
    )
    programs = {"denoiser.onnx", "denoiser.pt2"}
    assert files_in(path) == files_in(exported) | programs
    assert programs < read_json(path / "checksums.json").keys()
    card = (path / "README.md").read_text()
    assert all(f"`{name}`" in card for name in programs)
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "apache-2.0"
    assert ModelCard.load(path / "README.md").data.license == "apache-2.0"
    denoiser = load_bundle(path).denoiser
    program = torch.export.load(path / "denoiser.pt2").module()
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (program(images) - denoiser(images)).abs().max() < 1e-4
    with (path / "denoiser.onnx").open("ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match=r"denoiser\.onnx does not match its checksum"):
        load_bundle(path)


@pytest.mark.parametrize("license_id", ["", "Apache-2.0", "mit\n", "my licence", "a: b"])
def test_what_is_no_licence_is_refused(
    license_id: str, final_trial: TrialFolder, inputs: TrialInputs, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"identifier in lower case, such as apache-2\.0"):
        export(final_trial, inputs, tmp_path / "bundle", license_id=license_id)
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named_before_anything_is_written(
    final_trial: TrialFolder,
    inputs: TrialInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'decrop\[onnx\]'"):
        export(final_trial, inputs, tmp_path / "bundle", onnx=True)
    assert not list(tmp_path.iterdir())
    export(final_trial, inputs, tmp_path / "bundle")
