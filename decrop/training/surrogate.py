"""A surrogate of a black box: trained on its answers, so that a denoiser can train through it.

Model stealing without any data but the limited images. DE-CROP (section 5) uses Black-Box Ripper
(Barbalau et al., NeurIPS 2020), for which it gives no settings; ours asks about images that are
fixed beforehand (`decrop.synthesis.query_images`), once each.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decrop.black_box import BlackBox, endpoint_classifier, remembered
from decrop.cache import ContentCache, Tensors
from decrop.classifiers.classifier import Classifier
from decrop.classifiers.load import untrained_classifier
from decrop.classifiers.predictions import accuracy, predicted_classes
from decrop.config import ClassifierSettings, SurrogateSettings, TrialConfig
from decrop.data.datasets import Dataset, load_dataset
from decrop.data.limited import LabelledImages, LimitedData, limited_data
from decrop.errors import InputError
from decrop.files import sha256_of_json, sha256_of_tensors
from decrop.smoothing.execution import resolve_device, resolve_precision
from decrop.synthesis.query_images import PIECE, further_images, further_pieces
from decrop.training.classifier import ClassifierTrainer
from decrop.training.folder import ClassifierFolder
from decrop.training.hooks import NO_HOOKS, Hooks, OnCount
from decrop.training.loop import train
from decrop.training.trained_classifier import outcome_of, train_in_folder
from decrop.wording import counted

# Changed when the computation changes, so that an old cache is not taken for a new one.
_VERSION = 1
SURROGATE = "surrogate"


@dataclass(frozen=True)
class Answers:
    """What a black box answered.

    Attributes:
        images: to train on, uint8 [n, C, H, W].
        probabilities: of their classes, float32 [n, K]; one-hot where there are labels only.
        held_out: those of the held-out images, float32 [m, K].
        asked: images that were asked about now, as nobody had before.
    """

    images: Tensor
    probabilities: Tensor
    held_out: Tensor
    asked: int

    @property
    def labels_only(self) -> bool:
        """Whether every answer names one class as certain."""
        return bool((self.probabilities.max(1).values == 1).all())


@dataclass(frozen=True)
class SurrogateToTrain:
    """A surrogate and what it is to be stolen with.

    Attributes:
        classifier: untrained, or with the weights that the settings name.
        limited: images that may be asked about.
        query_seed: of the images made from them; that of the limited data, so that trials of other
            seeds ask nothing more.
        seed: of its training.
    """

    classifier: Classifier
    settings: SurrogateSettings
    limited: LimitedData
    query_seed: int
    seed: int

    @property
    def queries(self) -> int:
        """Number of images that are asked about in all."""
        return len(self.held_out) if self.settings.weights is not None else self.settings.queries

    @property
    def held_out(self) -> LabelledImages:
        """The images that agreement is measured on; it is never trained on them."""
        return self.limited.held_out

    def ask(
        self, target: BlackBox, cache: ContentCache, on_asked: OnCount | None = None
    ) -> Answers:
        """Ask about all images that `cache` has no answers to.

        Answers are kept piece by piece, so whoever was killed asks about the rest only.

        Args:
            on_asked: called with images that are answered and how many there are.

        Raises:
            RunError: the black box does not answer.
        """
        done = asked = 0

        def count(images: int) -> None:
            nonlocal asked
            asked += images

        def answers_to(piece: Tensor) -> Tensor:
            nonlocal done
            found = remembered(target, piece, cache, count)
            done += len(piece)
            if on_asked is not None:
                on_asked(done, self.queries)
            return found

        held_out = [answers_to(part) for part in self.held_out.images.split(PIECE)]
        images, answers = [], []
        if self.settings.weights is None:
            known = self.limited.without_held_out.images
            further = further_images(self.settings, len(self.limited.all))
            pieces = further_pieces(known, further, self.settings, seed=self.query_seed)
            for piece in (*known.split(PIECE), *pieces):
                images.append(piece)
                answers.append(answers_to(piece))
        nothing = self.limited.all.images[:0], torch.zeros(0, target.class_count)
        return Answers(
            torch.cat([nothing[0], *images]),
            torch.cat([nothing[1], *answers]),
            torch.cat(held_out),
            asked,
        )

    def trainer(self, answers: Answers, device: torch.device) -> ClassifierTrainer:
        """Begin its training, by cross-entropy to the answers."""
        return ClassifierTrainer(
            self.classifier,
            answers.images,
            answers.probabilities,
            self.settings.training(self.seed),
            sigma=0.0,
            device=device,
        )

    def agreement(self, answers: Answers, device: torch.device) -> float:
        """Return the share of held-out images on which the classifier predicts as the black box."""
        predicted = predicted_classes(self.classifier, self.held_out.images, device)
        return (predicted == answers.held_out.argmax(1)).double().mean().item()

    def determined_by(self, target: BlackBox, device: torch.device) -> dict[str, Any]:
        """Return everything that the stolen weights depend on, as JSON; paths by content."""
        given = None if self.settings.weights is None else self.classifier.content_hash()
        return {
            "version": _VERSION,
            "target": target.content_hash(),
            "queries": self.settings.of_the_images(),
            "query_seed": self.query_seed,
            "architecture": self.settings.architecture,
            "training": self.settings.training(self.seed).model_dump(exclude={"precision"}),
            "precision": resolve_precision(self.settings.precision, device),
            "given": given,
            "data": self.limited.all.content_hash(),
            "held_out": sha256_of_tensors({"mask": self.limited.held_out_mask}),
        }


@dataclass(frozen=True)
class Surrogate:
    """A stolen classifier.

    Attributes:
        agreement: share of held-out images on which it predicts as the black box does.
    """

    classifier: Classifier
    agreement: float


def surrogate_to_train(
    config: TrialConfig, dataset: Dataset, limited: LimitedData
) -> SurrogateToTrain:
    """Gather what the surrogate of a trial's settings is stolen with; nothing is asked.

    Pixels are standardised by mean and standard deviation of the limited images that it trains on.
    """
    settings = config.classifier.surrogate
    if settings is None:
        raise InputError(
            "classifier.surrogate: nothing says through what to train in front of "
            f"{config.classifier.source}, which gives no gradients; give it, as in "
            "--set classifier.surrogate.architecture=resnet18."
        )
    further_images(settings, len(limited.all))
    pixels = limited.without_held_out.images.double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp(min=1 / 255)
    given = settings.weights is not None
    classifier = untrained_classifier(
        ClassifierSettings(
            source=settings.architecture,
            weights=settings.weights,
            training=None if given else settings.training(config.seed),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
        ),
        dataset,
    )
    return SurrogateToTrain(classifier, settings, limited, config.limited.seed, config.seed)


def load_surrogate(
    given: SurrogateToTrain,
    target: BlackBox,
    cache: ContentCache,
    device: torch.device,
    hooks: Hooks = NO_HOOKS,
) -> Surrogate:
    """Steal a surrogate, or take it from the cache, where nothing is asked.

    Raises:
        RunError: the black box does not answer.
        TrainingDivergedError: the loss became NaN or infinite.
    """

    def steal() -> Tensors:
        answers = given.ask(target, cache, hooks.stage("asking, images"))
        if given.settings.weights is None:
            trainer = given.trainer(answers, device)
            train(trainer, on_step=hooks.stage("training the surrogate, steps"))
            given.classifier.network.load_state_dict(trainer.weights())
        agreement = torch.tensor(given.agreement(answers, device), dtype=torch.float64)
        weights = given.classifier.cpu().network.state_dict()
        return {"agreement": agreement, **{f"network.{k}": v for k, v in weights.items()}}

    found = cache.get(SURROGATE, given.determined_by(target, device), steal)
    agreement = found.pop("agreement").item()
    weights = {name.removeprefix("network."): tensor for name, tensor in found.items()}
    given.classifier.network.load_state_dict(weights)
    return Surrogate(given.classifier, agreement)


def steal_classifier(
    config: TrialConfig,
    folder: ClassifierFolder,
    *,
    hooks: Hooks = NO_HOOKS,
) -> dict[str, Any]:
    """Steal a surrogate of a trial's black box, and compare both on held-out images.

    What was answered already is not asked again, and training goes on from the folder's checkpoint;
    a surrogate that is finished is not stolen again.

    Args:
        config: settings with `classifier.surrogate`.

    Returns:
        the report: images asked about in all and by this call; whether the black box gives labels
        only; agreement and both accuracies on held-out images; records of the epochs; hashes.

    Raises:
        RunError: the black box does not answer.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    folder.check_settings(config)
    device = resolve_device(config.execution.device)
    dataset = load_dataset(config.dataset)
    limited = limited_data(dataset, config.limited)
    given = surrogate_to_train(config, dataset, limited)
    if given.settings.weights is not None:
        raise InputError(
            f"classifier.surrogate.weights: {given.settings.weights} is a surrogate already; to "
            "steal another one, set it to null."
        )
    folder.keep_inputs({"limited_data": limited.all.content_hash()})
    finished = folder.read_report()
    if finished is not None:
        return {**finished, "asked_now": 0}
    folder.write_settings(config)
    hooks.say(
        f"{config.classifier.source} will be asked about {counted(given.queries, 'image')}, less "
        "what it has answered already"
    )
    target = endpoint_classifier(config.classifier, dataset, folder.ledger_path)
    folder.keep_inputs({"classifier": target.content_hash()})
    answers = given.ask(target, ContentCache(folder.answers_path), hooks.stage("asking, images"))
    trainer = given.trainer(answers, device)
    origin = sha256_of_json(given.determined_by(target, device))
    train_in_folder(trainer, given.classifier, folder, origin, hooks)
    held_out = given.held_out
    right = answers.held_out.argmax(1) == held_out.labels
    report = {
        "target": target.content_hash(),
        "architecture": given.settings.architecture,
        "queries": given.queries,
        "labels_only": answers.labels_only,
        "held_out": {
            "images": len(held_out),
            "agreement": given.agreement(answers, device),
            "accuracy": accuracy(given.classifier, held_out, device),
            "target_accuracy": right.double().mean().item(),
        },
        **outcome_of(trainer, given.classifier, device),
        "limited_data": limited.all.content_hash(),
    }
    folder.finish(report)
    return {**report, "asked_now": answers.asked}
