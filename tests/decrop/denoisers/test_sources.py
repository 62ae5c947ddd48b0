"""Sources of a denoiser: each is trained, exported, loaded and verified, or refused in a line."""

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import decrop
from decrop.bundle import export_bundle, verify_bundle
from decrop.cache import ContentCache
from decrop.config import DenoiserSettings
from decrop.denoisers.adapted import bare
from decrop.denoisers.sources import open_denoiser
from decrop.documents import trial_config
from decrop.errors import InputError
from decrop.trial.folder import TrialFolder
from decrop.trial.prepare import load_inputs
from decrop.trial.run import run_trial
from tests.cases import cases, slow_but
from tests.decrop.denoisers.factories import Smoothing, SymmetricNoise
from tests.decrop.digits_trial import CPU, TEST_IMAGES, sample_nothing, short_trial
from tests.refusals import one_line

FACTORIES = "tests.decrop.denoisers.factories"
BUNDLES = Path(__file__).parents[2] / "data" / "bundles"
IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SIGMA = 0.25


def opened(**settings: Any) -> nn.Module:
    given = DenoiserSettings.model_validate(settings)
    return open_denoiser(given, image_channels=1, sigma=SIGMA).network.eval()


def refusal(**settings: Any) -> str:
    return one_line(opened, **settings)


def program_file(folder: Path, channels: int = 1) -> Path:
    images = torch.zeros(2, channels, 8, 8)
    batch = ({0: torch.export.Dim("batch")},)
    path = folder / "smoothing.pt2"
    network = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].weight += torch.eye(channels)[:, :, None, None] / 9
    torch.export.save(torch.export.export(network.eval(), (images,), dynamic_shapes=batch), path)
    return path


def diffusion_folder(folder: Path, **changes: Any) -> Path:
    """Write a tiny diffusion model of one channel, as diffusers does."""
    pytest.importorskip("diffusers", reason="diffusers is an optional extra")
    from diffusers import DDPMScheduler, UNet2DModel

    from decrop._torchvision import torchvision  # noqa: F401

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        **changes,
    )
    network.save_pretrained(folder / "unet")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(folder / "scheduler")
    return folder


def weights_file(folder: Path) -> str:
    save_file({"share": torch.tensor(0.75)}, folder / "share.safetensors")
    return str(folder / "share.safetensors")


class _DeepInv(Smoothing):
    """Called as deepinv's denoisers are."""

    def __init__(self, in_channels: int, out_channels: int, pretrained: None, gain: float) -> None:
        super().__init__(gain)

    def forward(self, images: Any, sigma: Any = None, **_: Any) -> Any:
        assert sigma.shape == images.shape[:1]
        return super().forward(images)


@pytest.fixture
def deepinv(monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("deepinv")
    package.models = types.SimpleNamespace(Small=_DeepInv)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepinv", package)


def settings_of(kind: str, folder: Path) -> dict[str, Any]:
    """Return the settings of a denoiser of each form."""
    match kind:
        case "registered":
            network = opened(source="unet", channels=4)
            save_file(network.state_dict(), folder / "unet.safetensors")
            weights = str(folder / "unet.safetensors")
            return {"source": "unet", "channels": 4, "weights": weights}
        case "factory":
            return {"source": f"{FACTORIES}:Smoothing", "weights": weights_file(folder)}
        case "factory with a contract":
            contract = {
                "value_range": "minus_one_to_one",
                "returns": "noise",
                "size_multiple": 4,
                "sigma_range": [0, 1],
            }
            return {"source": f"{FACTORIES}:SymmetricNoise", "contract": contract}
        case "program":
            return {"source": str(program_file(folder))}
        case "bundle":
            return {"source": str(BUNDLES / "format-10")}
        case "diffusion":
            return {"source": str(diffusion_folder(folder / "model"))}
        case "deepinv":
            weights = weights_file(folder)
            return {"source": "deepinv/Small", "arguments": {"gain": 0.4}, "weights": weights}
    raise AssertionError(kind)


KINDS = [
    "registered",
    "factory",
    "factory with a contract",
    "program",
    "bundle",
    "diffusion",
    "deepinv",
]


@pytest.mark.usefixtures("deepinv", "one_thread")
@pytest.mark.parametrize("kind", slow_but(KINDS, "program", "factory with a contract"))
def test_a_denoiser_of_any_origin_is_trained_exported_and_verified(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_nothing(monkeypatch)
    source = tmp_path / "source"
    source.mkdir()
    config = short_trial("classifier.training.epochs=1")
    document = config.model_dump(mode="json") | {"denoiser": settings_of(kind, source)}
    config = trial_config(document, source="test")
    cache, folder = ContentCache(tmp_path / "cache"), TrialFolder(tmp_path / "trial")
    inputs = load_inputs(config, cache, CPU)
    assert inputs.denoiser is not None
    before = {k: v.clone() for k, v in inputs.denoiser.network.state_dict().items()}
    list(run_trial(config, inputs, folder, cache, split="test"))
    # The inputs are shared, so the training is of a copy.
    after = inputs.denoiser.network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert inputs.hashes_of(config, "test")["initial_denoiser"]
    # What is exported needs nothing of where the denoiser came from.
    shutil.rmtree(source)
    bundle = tmp_path / "bundle"
    export_bundle(folder, inputs.classifier, inputs.class_names, bundle, origin="A test.")
    if kind.startswith("factory"):
        with pytest.raises(InputError, match="--trust-code"):
            export_bundle(
                folder,
                inputs.classifier,
                inputs.class_names,
                tmp_path / "other",
                origin="A test.",
                torch_export=True,
            )
    card, stated = (bundle / "README.md").read_text(), (bundle / "config.json").read_text()
    assert "has seen other images" in " ".join(card.split())
    assert str(tmp_path) not in stated
    trusted = kind.startswith("factory") or kind in ("diffusion", "deepinv")
    if trusted:
        with pytest.raises(InputError, match="--trust-code"):
            decrop.load(bundle)
    model = decrop.load(bundle, trust_code=trusted)
    trained = bare(model.bundle.denoiser).state_dict()
    started = bare(inputs.denoiser.network).state_dict()
    assert trained.keys() == started.keys()
    assert any(not torch.equal(trained[name], started[name]) for name in trained)
    assert verify_bundle(model.bundle) == TEST_IMAGES
    if kind == "program":
        (bundle / "denoiser_program.pt2").unlink()
        with pytest.raises(InputError, match="denoiser_program"):
            decrop.load(bundle)


def test_a_contract_is_kept() -> None:
    symmetric = SymmetricNoise()
    images = torch.rand(3, 1, 7, 6, generator=torch.Generator().manual_seed(1))
    contract = {"value_range": "minus_one_to_one", "returns": "noise", "size_multiple": 4}
    denoiser = opened(source=f"{FACTORIES}:SymmetricNoise", contract=contract)
    padded = nn.functional.pad(2 * images - 1, (0, 2, 0, 1), mode="replicate")
    noise = symmetric(padded, torch.full((3,), 2 * SIGMA))
    expected = ((padded - noise + 1) / 2)[..., :7, :6]
    assert torch.allclose(denoiser(images), expected, atol=1e-6)
    other = denoiser(images, torch.tensor([0.1, 0.2, SIGMA]))
    assert torch.allclose(other[2], expected[2], atol=1e-6)
    assert not torch.allclose(other[0], expected[0], atol=1e-3)


def test_weights_of_a_registered_network_are_loaded_and_random_ones_are_torchs_next(
    tmp_path: Path,
) -> None:
    torch.manual_seed(5)
    first = opened(source="ffdnet")
    save_file(first.state_dict(), tmp_path / "w.safetensors")
    torch.manual_seed(6)
    assert not torch.equal(opened(source="ffdnet")(IMAGES), first(IMAGES))
    found = opened(source="ffdnet", weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(found(IMAGES), first(IMAGES))


@cases(
    ("settings", "said"),
    [
        ({"source": "rednet"}, "must be one of 'dncnn'"),
        ({"source": "dncnn", "arguments": {"a": 1}}, "arguments are not for source 'dncnn'"),
        ({"source": "none", "weights": "w"}, "weights are not for source 'none'"),
        ({"source": "a.pt2", "weights": "w"}, "weights are not for source 'a.pt2'"),
        ({"source": "dncnn", "contract": {"takes": "images"}}, "contract is not for source"),
        ({"source": "dncnn", "pretrained_on": "cats"}, "starts from random weights"),
        ({"source": "a:b", "contract": {"sigma_range": [0.5, 0.1]}}, "the lower one first"),
        ({"source": "a:b", "contract": {"size_multiple": 10**6}}, "less than or equal to 256"),
    ],
)
def test_settings_that_do_not_fit_a_source_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match="denoiser") as error:
        trial_config({"denoiser": settings}, source="my.yaml")
    assert said in str(error.value)


def test_what_cannot_be_opened_is_refused_in_a_line(tmp_path: Path) -> None:
    share = weights_file(tmp_path)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    pickled = tmp_path / "pickled.safetensors"
    torch.save({"share": torch.zeros(())}, pickled)
    factory = f"{FACTORIES}:Smoothing"
    for settings, said in (
        ({"source": "no_such.module:f"}, "denoiser.source: no_such.module cannot be imported"),
        ({"source": f"{FACTORIES}:number"}, "returns a int, not a torch.nn.Module"),
        ({"source": factory, "arguments": {"size": 3}}, "its arguments are denoiser.arguments"),
        ({"source": factory, "weights": str(other)}, "denoiser.weights: "),
        ({"source": factory, "weights": str(pickled)}, "is a pickle"),
        ({"source": "ffdnet", "weights": share}, "does not fit ffdnet"),
        ({"source": str(tmp_path / "nowhere")}, "there is no folder"),
        ({"source": str(program_file(tmp_path, channels=3))}, "takes images of 3 channels"),
        ({"source": str(BUNDLES / "nothing.pt2")}, "nothing.pt2"),
    ):
        assert said in refusal(**settings), settings


def test_a_changed_bundle_is_not_gone_on_from(tmp_path: Path) -> None:
    shutil.copytree(BUNDLES / "format-10", tmp_path / "bundle")
    with (tmp_path / "bundle" / "denoiser.safetensors").open("ab") as file:
        file.write(b"0")
    assert "was changed" in refusal(source=str(tmp_path / "bundle"))


def test_a_folder_of_diffusers_is_refused_where_it_is_not_what_can_be_used(tmp_path: Path) -> None:
    good = diffusion_folder(tmp_path / "good")
    for name, changes, said in (
        ("class", {"_class_name": "UNet2DConditionModel"}, "only UNet2DModel"),
        ("channels", {"in_channels": 3}, "takes images of 3 channels"),
        ("labels", {"num_class_embeds": 10}, "told the class of an image"),
        ("size", {"block_out_channels": [8, 16]}, "does not fit"),
        ("depth", {"layers_per_block": 10**6}, "config.layers_per_block must have at most"),
        ("width", {"block_out_channels": [10**9, 8]}, "config.block_out_channels must"),
        ("blocks", {"down_block_types": ["DownBlock2D"] * 99}, "config.down_block_types must"),
        ("code", {"act_fn": "os.system"}, "raised"),
    ):
        copied = Path(shutil.copytree(good, tmp_path / name))
        config = json.loads((copied / "unet" / "config.json").read_text())
        (copied / "unet" / "config.json").write_text(json.dumps(config | changes))
        assert said in refusal(source=str(copied)), name
    schedule = Path(shutil.copytree(good, tmp_path / "schedule"))
    stated = schedule / "scheduler" / "scheduler_config.json"
    stated.write_text(json.dumps(json.loads(stated.read_text()) | {"num_train_timesteps": 10**9}))
    assert "num_train_timesteps" in refusal(source=str(schedule))
    pickled = Path(shutil.copytree(good, tmp_path / "pickled"))
    weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "is a pickle" in refusal(source=str(pickled))


def test_deepinv_downloads_nothing(deepinv: None) -> None:
    asked = {"gain": 1.0, "pretrained": "download"}
    assert "pickles" in refusal(source="deepinv/Small", arguments=asked)
    assert "there are Small" in refusal(source="deepinv/Other")


def test_what_was_trained_before_is_told() -> None:
    assert DenoiserSettings().pretraining is None
    photographs = "photographs"
    given = DenoiserSettings(source="ffdnet", weights="/a/b.safetensors", pretrained_on=photographs)
    assert given.pretraining == "ffdnet with b.safetensors, trained before on photographs"
    assert DenoiserSettings(source="a:b").starts_trained
    with pytest.raises(ValueError, match="must be one of"):
        DenoiserSettings(source="a b")
