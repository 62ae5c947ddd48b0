"""A bundle to and from a model hub, as huggingface_hub's mixin does it, without a network."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import hub_mixin

import decrop
import decrop.bundle.smoothed_classifier
from decrop.bundle import load_bundle, verify_bundle
from decrop.bundle.smoothed_classifier import SmoothedClassifier
from decrop.errors import InputError
from tests.commands import contents
from tests.decrop.digits_trial import TEST_IMAGES

REPO = "someone/denoiser"


@pytest.fixture
def bundle_path(exported: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def test_what_is_saved_is_the_bundle_byte_for_byte(exported: Path, tmp_path: Path) -> None:
    saved = tmp_path / "new" / "saved"
    assert decrop.load(exported).save_pretrained(saved) is None
    assert contents(saved) == contents(exported)
    again = SmoothedClassifier.from_pretrained(saved)
    assert isinstance(again, SmoothedClassifier)
    assert verify_bundle(again.bundle) == TEST_IMAGES
    # Also from what the mixin loaded, and over an earlier copy.
    again.save_pretrained(tmp_path / "third")
    again.save_pretrained(tmp_path / "third")
    assert contents(tmp_path / "third") == contents(exported)


def test_only_the_bundles_own_files_are_saved(bundle_path: Path, tmp_path: Path) -> None:
    original = contents(bundle_path)
    (bundle_path / "notes.txt").write_text("private")
    decrop.load(bundle_path).save_pretrained(tmp_path / "saved")
    assert contents(tmp_path / "saved") == original


def test_a_bundle_is_not_saved_onto_itself(bundle_path: Path) -> None:
    original = contents(bundle_path)
    model = decrop.load(bundle_path)
    with pytest.raises(InputError, match="is the bundle itself; choose another folder"):
        model.save_pretrained(bundle_path / "figures" / "..")
    assert contents(bundle_path) == original


def test_a_bundle_that_was_changed_since_is_not_saved(bundle_path: Path, tmp_path: Path) -> None:
    model = decrop.load(bundle_path)
    (bundle_path / "README.md").write_text("changed")
    with pytest.raises(InputError, match=r"README\.md does not match its checksum"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


class Hub:
    """Keeps what is uploaded (`huggingface_hub.HfApi` as the mixin uses it)."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.uploads: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}

    def create_repo(self, **options: Any) -> SimpleNamespace:
        self.created.append(options)
        return SimpleNamespace(repo_id=options["repo_id"])

    def upload_folder(self, *, folder_path: Path, **options: Any) -> str:
        self.uploads.append(options)
        self.files = contents(Path(folder_path))
        return "https://hub/commit"


def test_the_bundle_is_pushed_to_a_hub(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr(hub_mixin, "HfApi", lambda token: hub)
    model = decrop.load(exported)
    assert model.push_to_hub(REPO, private=True, commit_message="first") == "https://hub/commit"
    assert hub.files == contents(exported)
    assert hub.created[0]["repo_id"] == REPO
    assert hub.created[0]["private"]
    assert hub.uploads[0]["repo_id"] == REPO
    assert hub.uploads[0]["commit_message"] == "first"
    # As the mixin's own save does, with an upload.
    hub.files = {}
    saved = exported.parent / "saved"
    assert model.save_pretrained(saved, push_to_hub=True, repo_id=REPO) == "https://hub/commit"
    assert hub.files == contents(exported)
    shutil.rmtree(saved)


def test_a_bundle_comes_from_a_hub(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def snapshot(repo: str, **options: Any) -> str:
        asked.append({"repo": repo, **options})
        return str(exported)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        hub_mixin, "hf_hub_download", lambda **options: str(exported / options["filename"])
    )
    monkeypatch.setattr(decrop.bundle.smoothed_classifier, "snapshot_download", snapshot)
    weights = exported / "classifier" / "weights.safetensors"
    model = SmoothedClassifier.from_pretrained(
        REPO, revision="v1", classifier=str(weights), device="cpu"
    )
    assert (asked[0]["repo"], asked[0]["revision"]) == (REPO, "v1")
    assert model.bundle.config == load_bundle(exported).config
    assert verify_bundle(model.bundle) == TEST_IMAGES


def test_no_weights_are_kept_as_configuration(exported: Path) -> None:
    assert decrop.load(exported, device="cpu")._hub_mixin_config == {}
