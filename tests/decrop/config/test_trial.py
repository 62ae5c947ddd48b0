"""The schema: the paper's values as defaults, and no value that the method cannot use."""

from typing import Any

import pytest
from pydantic import ValidationError

from decrop.config import ClassifierSettings, DatasetSettings, TrialConfig
from decrop.documents import field_paths, get_dotted, set_dotted
from tests.cases import cases

# METHODS: DE-CROP, its published code, and Cohen et al. for certification.
PUBLISHED = {
    "sigma": 0.25,
    "dataset.name": "cifar10",
    "limited.fraction": 0.01,
    "boundary.attack": "pgd",
    "boundary.epsilon": 8 / 255,
    "boundary.step_size": 2 / 255,
    "boundary.steps": 20,
    "boundary.square_queries": 5000,
    "boundary.overshoot": 0.02,
    "boundary.on_failure": "keep",
    "boundary.norm": "linf",
    "boundary.restarts": 1,
    "interpolation.partner": "boundary",
    "interpolation.mixing_coefficient": 0.5,
    "interpolation.count": 1,
    "interpolation.steps": 50,
    "interpolation.learning_rate": 0.001,
    "interpolation.mode": "as_written",
    "denoiser.source": "dncnn",
    "denoiser.depth": 17,
    "denoiser.channels": 64,
    "prior.kind": "none",
    "training.epochs": 600,
    "training.discriminator_epochs": 600,
    "training.batch_size": 200,
    "training.optimizer": "adam",
    "training.learning_rate": 1e-3,
    "training.learning_rate_drop_every": 200,
    "training.learning_rate_drop_factor": 0.1,
    "training.adam_epochs": 50,
    "training.weight_decay": 1e-4,
    "training.loss_weights.label_consistency": 1,
    "training.loss_weights.cosine": 4,
    "training.loss_weights.mmd": 4,
    "training.loss_weights.discriminator": 1,
    "training.loss_weights.boundary": 1,
    "training.loss_weights.interpolated": 1,
    "training.loss_weights.generated_label_consistency": 0,
    "training.loss_weights.distillation": 0,
    "training.adversarial.epsilon": 0,
    "training.mmd_kernel.kind": "rbf",
    "training.mmd_kernel.bandwidth_factors": (0.25, 0.5, 1, 2, 4),
    "training.noise_draws": 1,
    "training.noise_of_views": "shared",
    "training.gradient_norm": 0,
    "training.last_layers": 0,
    "training.discriminator.hidden_units": 100,
    "training.discriminator.learning_rate": 1e-5,
    "training.discriminator.reversal_scale": 1,
    "training.discriminator.outputs": 1,
    "training.augmentation.policy": 1,
    "training.augmentation.mixing": "none",
    "training.augmentation.crop_padding": 4,
    "training.augmentation.flip_probability": 0.5,
    "training.augmentation.rotation_degrees": 10,
    "training.augmentation.translation_width": 0.25,
    "training.augmentation.translation_height": 0.5,
    "training.augmentation.views": "matched",
    "certification.selection_samples": 100,
    "certification.estimation_samples": 10_000,
    "certification.failure_probability": 0.001,
    "certification.radii": (0, 0.25, 0.5, 0.75),
    "certification.test_images": 500,
}


@cases("path", PUBLISHED)
def test_default_is_the_papers(path: str) -> None:
    assert get_dotted(TrialConfig().model_dump(), path) == PUBLISHED[path]


def test_every_setting_says_what_it_is() -> None:
    undocumented = [path for path, field in field_paths().items() if not field.description]
    assert undocumented == []


def test_settings_survive_json() -> None:
    config = TrialConfig.model_validate(
        {
            "classifier": {"weights": "w", "mean": [0.5], "std": [0.25]},
            "certification": {"radii": [0, 1e-3]},
        }
    )
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config


@cases(
    ("path", "allowed", "refused"),
    [
        ("sigma", [0.02, 2], [0, -0.25, float("nan"), float("inf")]),
        ("seed", [0, 2**40], [-1, 0.5]),
        ("limited.fraction", [1e-6, 1], [0, 1.01]),
        ("limited.held_out_fraction", [1e-6, 0.99], [0, 1]),
        ("boundary.epsilon", [1e-6, 1], [0, 1.01]),
        ("boundary.step_size", [1e-6, 1], [0, 1.01]),
        ("boundary.norm", ["linf", "l2"], ["l1"]),
        ("boundary.attack", ["pgd", "auto_attack", "deepfool"], ["fgsm", None]),
        ("boundary.square_queries", [0, 5000], [-1, 0.5]),
        ("boundary.overshoot", [0, 1], [-0.01, float("inf")]),
        ("interpolation.partner", ["boundary", "same_class"], ["other_class", None]),
        ("interpolation.mixing_coefficient", [0, 1], [-0.01, 1.01]),
        ("interpolation.count", [1, 16], [0, 17]),
        ("interpolation.learning_rate", [1e-9], [0]),
        ("denoiser.depth", [3, 64], [2, 65]),
        ("denoiser.channels", [4, 512], [3, 513]),
        ("training.sigma", [None, 0.1, [0.1, 0.5]], [0, [0.5, 0.1], [0.1, 0.1], [0.1], [0, 1]]),
        ("training.discriminator_epochs", [0], [-1]),
        ("training.learning_rate", [1e-9], [0, float("inf")]),
        ("training.learning_rate_drop_factor", [1e-3, 1], [0, 1.1]),
        ("training.loss_weights.label_consistency", [0, 1e6], [-1, float("nan")]),
        ("training.mmd_kernel.bandwidth_factors", [[1e-6], [1, 2]], [[], [0], [float("inf")]]),
        ("training.distillation.temperature", [0.01, 100], [0, -1]),
        ("training.adversarial.epsilon", [0, 1], [-1, float("nan")]),
        ("training.adversarial.steps", [1], [0]),
        ("training.noise_draws", [1, 64], [0, 65]),
        ("training.discriminator_phase.learning_rate", [None, 1e-9], [0]),
        ("training.discriminator_phase.optimizer", [None, "sgd"], ["rmsprop"]),
        ("training.augmentation.policy", ["none", 1, 2, 3], [0, 4, "policy 1", None]),
        ("training.augmentation.mixing", ["none", "mixup", "cutmix"], ["both", None]),
        ("training.augmentation.mixing_alpha", [1e-6, 10], [0, -1, float("inf")]),
        ("training.augmentation.flip_probability", [0, 1], [-0.1, 1.1]),
        ("certification.failure_probability", [1e-12, 0.5], [0, 1e-13, 0.51]),
        ("certification.radii", [[0], [0, 1]], [[], [1, 0], [0, 0], [-1]]),
        ("certification.procedure", ["adaptive", "fixed"], ["sequential", None]),
        ("certification.max_samples", [120, 10**9], [0, 99, 100, 109]),
        ("certification.radius_step", [1e-3, 0.05], [0, 0.051]),
        ("execution.chunks_per_batch", ["auto", 1, 1024], [0, "fastest", None]),
        ("classifier.std", [], [[0.0], [-1.0]]),
    ],
)
def test_limits_of_a_setting(path: str, allowed: list[Any], refused: list[Any]) -> None:
    for value in allowed:
        config = TrialConfig.model_validate(set_dotted({}, path, value))
        assert TrialConfig.model_validate(config.model_dump()) == config
    for value in refused:
        with pytest.raises(ValidationError):
            TrialConfig.model_validate(set_dotted({}, path, value))


def test_image_size_and_mode_are_of_images_of_yours() -> None:
    def dataset(**given: Any) -> DatasetSettings:
        return DatasetSettings.model_validate({"name": "image_folder"} | given)

    assert dataset(image_size=224).resized_to == 256
    assert dataset(image_size=224, resize_size=232).resized_to == 232
    assert "image_size" not in dataset().model_dump()
    for given, said in (
        ({"image_size": 224, "resize_size": 223}, "needs an image_size, which is at most as l"),
        ({"resize_size": 256}, "resize_size needs an image_size"),
        ({"image_size": 32, "name": "cifar10"}, "image_size is of parquet and image_folder, not"),
        ({"mode": "rgb", "name": "digits"}, "mode is of parquet and image_folder, not of digits"),
        ({"mode": "cmyk"}, "'rgb' or 'grey'"),
    ):
        with pytest.raises(ValidationError, match=said):
            dataset(**given)


def test_l2_goes_further_than_a_pixel_does() -> None:
    far = {"norm": "l2", "epsilon": 20, "step_size": 2}
    assert TrialConfig.model_validate({"boundary": far}).boundary.epsilon == 20
    for nearer in ({"norm": "linf"}, {"attack": "auto_attack"}):
        with pytest.raises(ValidationError, match="epsilon 20 must be at most 1 but for pgd"):
            TrialConfig.model_validate({"boundary": far | nearer})


@pytest.mark.parametrize("coefficient", [0, 1])
def test_several_coefficients_need_room_around_their_median(coefficient: int) -> None:
    interpolation = {"mixing_coefficient": coefficient, "count": 2}
    message = f"mixing_coefficient {coefficient} with count 2 gives equal coefficients"
    with pytest.raises(ValidationError, match=message):
        TrialConfig.model_validate({"interpolation": interpolation})
    assert TrialConfig.model_validate({"interpolation": interpolation | {"count": 1}})
    inside = interpolation | {"mixing_coefficient": 0.01}
    assert TrialConfig.model_validate({"interpolation": inside})


@pytest.mark.parametrize(
    ("certification", "message"),
    [
        ({"max_samples": 50}, r"max_samples \(50\) must exceed selection_samples \(100\)"),
        ({"certificate": "t_certify_grid"}, "t_certify_grid needs procedure fixed"),
    ],
)
def test_certification_fits_its_procedure(certification: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrialConfig.model_validate({"certification": certification})
    assert TrialConfig.model_validate({"certification": {"procedure": "fixed"} | certification})


@cases(
    "classifier",
    [
        {"weights": "w"},
        {"weights": "w", "source": "cifar_resnet20"},
        {"training": {"epochs": 1}, "source": "small_cnn"},
        {"mean": [0.5], "std": [0.5]},
        *(
            {"source": source}
            for source in (
                *("auto", "resnet18", "my_models:make", "a.b.c:Maker.build"),
                *("timm/vit_tiny.augreg", "torchvision/resnet18", "model.pt2"),
                *("/data/x:y/model.pt2", "models:/name/1", "runs:/0123/model"),
                "models:/name@champion",
            )
        ),
    ],
)
def test_classifiers_of_every_form_are_taken(classifier: dict[str, Any]) -> None:
    found = TrialConfig.model_validate({"classifier": classifier}).classifier
    assert found.source == classifier.get("source", "auto")


def test_the_earlier_name_of_the_source_is_read() -> None:
    earlier = ClassifierSettings.model_validate({"architecture": "resnet12", "weights": "w"})
    assert earlier == ClassifierSettings(source="resnet12", weights="w")
    assert "architecture" not in earlier.model_dump()
    with pytest.raises(ValidationError, match="architecture"):
        ClassifierSettings.model_validate({"architecture": "resnet12", "source": "resnet12"})


@cases(
    ("given", "said"),
    [
        ({"weights": "w", "training": {}}, "not both"),
        ({"weights": "w", "source": "small_cnn", "training": {}}, "not both"),
        ({"training": {}}, "name the source to train"),
        ({"training": {}, "source": "auto"}, "name the source to train"),
        ({"mean": [0.5]}, "mean and std together"),
        ({"std": [0.5]}, "mean and std together"),
        ({"source": "resnet"}, "package.module:function, timm/NAME"),
        ({"source": "a b:c"}, "must be one of"),
        ({"source": "m:f", "training": {}}, "only a registered network can be trained, not m:f"),
        ({"source": "resnet18", "arguments": {"a": 1}}, "arguments are of a function"),
        ({"source": "m.pt2", "weights": "w"}, "m.pt2 has its own weights"),
        ({"source": "models:/m/1", "weights": "w"}, "has its own weights"),
        ({"source": "small_cnn", "training": {}, "input_size": [8, 8]}, "images as they are"),
        ({"input_size": [8]}, "input_size"),
        ({"input_size": [8, 0]}, "input_size"),
        ({"channel_order": "gbr"}, "channel_order"),
        ({"arguments": {"a": object()}}, "arguments"),
    ],
)
def test_classifiers_that_cannot_be_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        ClassifierSettings.model_validate(given)
    assert said in str(error.value)


def said(**groups: Any) -> str:
    with pytest.raises(ValidationError) as error:
        TrialConfig.model_validate(groups)
    return str(error.value)


@cases(
    ("settings", "name"),
    [
        ({"procedure": "fixed", "estimation_samples": 9}, "estimation_samples (9)"),
        ({"max_samples": 109}, "max_samples less selection_samples (9)"),
        ({"held_out_samples": 9}, "held_out_samples (9)"),
        ({"pruning_samples": 9}, "pruning_samples (9)"),
    ],
)
def test_samples_too_few_to_certify_anything_are_refused(
    settings: dict[str, Any], name: str
) -> None:
    # 0.001 to the power of 1 / 9 is below 1/2, to that of 1 / 10 above.
    assert f"{name} must be at least 10, for with fewer nothing can be certified" in said(
        certification=settings
    )
    enough = {key: value + 1 for key, value in settings.items() if key != "procedure"}
    for changes in (enough, {"failure_probability": 0.002}):
        certification = {"radius_step": 0.02} | settings | changes
        TrialConfig.model_validate({"sigma": 9, "certification": certification})


def test_noise_too_small_for_any_radius_is_refused() -> None:
    text = said(sigma=0.001)
    assert "sigma (0.001) is so small that with certification.max_samples (20000) no radius" in text
    assert "where all samples agree 0.0034 is, and the smallest that is tested is 0.05" in text
    # At radius 0 alone, and where radii are no grid, something can be.
    for settings in ({"radii": [0]}, {"procedure": "fixed"}):
        TrialConfig.model_validate({"sigma": 0.001, "certification": settings})


@cases(
    ("changes", "message"),
    [
        ({"certification": {"sigmas": [0.5, 0.12]}}, "sigmas must increase"),
        ({"certification": {"sigmas": [0.12, 0.0]}}, "greater than 0"),
        ({"certification": {"sigmas": [1e-5]}}, "one of certification.sigmas .1e-05. is so small"),
        # Where 10 samples do at one sigma.
        (
            {
                "certification": {
                    "sigmas": [0.12, 0.5],
                    "procedure": "fixed",
                    "estimation_samples": 10,
                    "held_out_samples": 10,
                    "pruning_samples": 10,
                }
            },
            "failure probability 0.001 / 3 at each, .* at least 12",
        ),
    ],
)
def test_sigmas_that_nothing_can_be_certified_at_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        TrialConfig.model_validate(changes)


def test_settings_without_further_sigmas_are_written_as_before_they_were_there() -> None:
    config = TrialConfig()
    assert "sigmas" not in config.model_dump(mode="json")["certification"]
    assert config.certified_sigmas == (0.25,)
    several = TrialConfig.model_validate({"certification": {"sigmas": [0.12, 0.25, 0.5]}})
    assert several.certified_sigmas == (0.12, 0.25, 0.5)
    assert several.at_sigma(0.5) == TrialConfig(sigma=0.5)
    assert TrialConfig.model_validate(several.model_dump(mode="json")) == several
