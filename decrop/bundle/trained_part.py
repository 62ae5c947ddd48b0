"""What a model card says of the part that was trained: its use, its training and its images."""

from collections.abc import Sequence

from decrop.config import TrialConfig
from decrop.config.classifier_training import CLASSIFIER_OBJECTIVES, ClassifierTrainingSettings
from decrop.config.components import Component
from decrop.config.prior import PRIORS
from decrop.config.training import OBJECTIVES
from decrop.config.trial import Part
from decrop.evaluation.escaping import markdown_text
from decrop.wording import counted


class CardDenoiser:
    """What a card says of a denoiser: its use, its training and the images of it."""

    tags: Sequence[str] = ("denoiser", "de-crop")
    before_the_classifier = "this denoiser, "

    def use(self, config: TrialConfig, data: str) -> str:
        source = markdown_text(config.classifier.source)
        mirrored = ",\neach by the mean of its logits and those of its mirror image"
        return (
            f"Put this denoiser in front of the pretrained {source} classifier "
            f"it was\ntrained for {data}, and classify many noisy copies of an image"
            f"{mirrored if config.denoiser.mirrored else ''}"
        )

    def training_data(self, config: TrialConfig) -> str:
        return f"Trained on {config.limited.fraction:.2%} of the training split."

    def training(self, config: TrialConfig) -> str:
        training = config.training
        sentences = []
        if config.denoiser.pretraining is not None:
            sentences.append(
                f"It starts from a denoiser that has seen other images than those of the limited "
                f"data: {markdown_text(config.denoiser.pretraining)}."
            )
        if config.prior.kind != "none":
            sentences.append(
                f"Before it saw an image of the data it was pretrained on generated images "
                f"({PRIORS[config.prior.kind].help}), {counted(config.prior.steps, 'step')}."
            )
        squared_error, *others = training.phase_epochs
        if squared_error:
            sentences.append(
                f"First {_told(OBJECTIVES['mse'])}, {counted(squared_error, 'epoch')}."
            )
        sentences.append(
            f"{_sentence(OBJECTIVES[training.objective])}, {counted(sum(others), 'epoch')}"
            + (" at most." if training.early_stopping else ".")
        )
        weights = training.loss_weights
        if weights.distillation and training.objective != "mse":
            maps = training.distillation.loss == "feature_maps"
            compared = "feature maps" if maps else "logits"
            sentences.append(
                f"The classifier's {compared} were kept near those of "
                "the clean image, with weight "
                f"{weights.distillation:g}; its label had weight {weights.label_consistency:g}."
            )
        if training.adversarial.epsilon and training.objective != "mse":
            sentences.append(
                "In place of clean images it saw adversarial examples of the smoothed classifier, "
                f"within {training.adversarial.epsilon:g} of them (L2)."
            )
        if training.prior_images.kind != "none":
            sentences.append(
                f"Every step took {counted(training.prior_images.count, 'generated image')} as "
                f"well ({PRIORS[training.prior_images.kind].help})."
            )
        if training.last_layers:
            last = training.last_layers
            layers = "layer was" if last == 1 else f"{last} layers were"
            sentences.append(f"Only its last {layers} trained.")
        if training.sigma is not None:
            levels = training.sigma if isinstance(training.sigma, tuple) else (training.sigma,)
            sentences.append(
                "The noise of training had a standard deviation of "
                f"{' to '.join(f'{level:g}' for level in levels)}."
            )
        if training.early_stopping:
            sentences.append(
                "Early stopping chose the epoch, by the certified radius on held-out images of the "
                "limited data."
            )
        return "\n".join(sentences)


class CardClassifier:
    """The same of a classifier."""

    tags: Sequence[str] = ()
    before_the_classifier = ""

    def use(self, config: TrialConfig, data: str) -> str:
        source = markdown_text(config.classifier.source)
        return (
            f"Let this {source} classifier {data}, which was trained\n"
            "for it and has no denoiser in front, classify many noisy copies of an image"
        )

    def training_data(self, config: TrialConfig) -> str:
        trained_on = self._settings(config).trained_on
        if trained_on == "limited":
            return CardDenoiser().training_data(config)
        left_out = "" if trained_on == "all" else ", without the held-out images"
        return f"Trained on the training split{left_out}."

    def training(self, config: TrialConfig) -> str:
        own = self._settings(config)
        return (
            f"{_sentence(CLASSIFIER_OBJECTIVES[own.objective])}, {counted(own.epochs, 'epoch')}"
            + (
                " at most; the certified\nradius on held-out images chose the epoch."
                if config.training.early_stopping
                else "."
            )
        )

    def _settings(self, config: TrialConfig) -> ClassifierTrainingSettings:
        settings = config.classifier.training
        assert settings is not None  # it was trained by them
        return settings


PARTS: dict[Part, CardDenoiser | CardClassifier] = {
    "denoiser": CardDenoiser(),
    "classifier": CardClassifier(),
}


def _sentence(component: Component) -> str:
    told = _told(component)
    return f"{told[0].upper()}{told[1:]}"


def _told(component: Component) -> str:
    return component.help + (f" ({component.paper})" if component.paper else "")
