"""Faults picked by hand, one line of the code each, with the tests that must catch them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A fault that is planted by hand.

    Attributes:
        name: what is wrong then, after the part of the code.
        old: text that stands in one module of decrop or tune, once.
        new: text in its place.
        tests: files of which at least one test must fail.
    """

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


def _faults(part: str, tests: str, *changes: tuple[str, str, str]) -> list[Fault]:
    return [Fault(f"{part}: {name}", old, new, tuple(tests.split())) for name, old, new in changes]


LOSSES = _faults(
    "losses",
    "tests/decrop/training/test_losses.py",
    (
        "labels of the denoised images",
        "F.cross_entropy(denoised_logits, clean_logits.argmax(1))",
        "F.cross_entropy(denoised_logits, denoised_logits.argmax(1))",
    ),
    (
        "cosine over the batch",
        "F.cosine_similarity(denoised_logits, clean_logits, dim=1).mean()",
        "F.cosine_similarity(denoised_logits, clean_logits, dim=0).mean()",
    ),
    (
        "MMD with its cross term once",
        "- 2 * kernel[:m, m:].mean()",
        "- kernel[:m, m:].mean()",
    ),
    (
        "MMD's width in the gradient",
        "return squared, (squared.detach().sum() / pairs)",
        "return squared, (squared.sum() / pairs)",
    ),
    (
        "cosine minimised",
        "(-weights.cosine, terms.cosine_similarity)",
        "(weights.cosine, terms.cosine_similarity)",
    ),
    (
        "domains exchanged",
        "[torch.ones_like(clean_scores), torch.zeros_like(denoised_scores)]",
        "[torch.zeros_like(clean_scores), torch.ones_like(denoised_scores)]",
    ),
)
TRAINING = [
    *_faults(
        "training",
        "tests/decrop/training/test_denoiser.py tests/decrop/training/test_denoiser_phases.py",
        (
            "average forgotten in the state",
            'return parts if self._average is None else {**parts, "average": self._average}',
            "return parts",
        ),
        (
            "discriminator never moves",
            "discriminating = [] if terms.domain is None else [self._discriminator_optimizer]",
            "discriminating = []",
        ),
        (
            "the same order of images in every epoch",
            'torch_generator(self._seed, "training", epoch)',
            'torch_generator(self._seed, "training", 0)',
        ),
    ),
    *_faults(
        "stage 1",
        "tests/decrop/synthesis/test_interpolation.py",
        (
            "partners exchanged in eq. 6",
            "return mixing_coefficient * clean + (1 - mixing_coefficient) * partner",
            "return mixing_coefficient * partner + (1 - mixing_coefficient) * clean",
        ),
        (
            "pixels leave [0,1]",
            "            pixels.clamp_(0, 1)",
            "            pixels.clamp_(-1, 2)",
        ),
    ),
]
CERTIFICATES = [
    *_faults(
        "CERTIFY",
        "tests/decrop/smoothing/test_certificates.py",
        (
            "a two-sided level",
            "betaincinv(some, trials - some + 1, rounded_down(failure_probability))",
            "betaincinv(some, trials - some + 1, 2 * rounded_down(failure_probability))",
        ),
        (
            "the bound without its error",
            "return np.maximum(bound - SAMPLING_ERROR, 0.0)",
            "return bound",
        ),
        (
            "non-finite logits certified",
            "(selection_counts[:, -1] == 0) & (estimation_counts[:, -1] == 0)",
            "(selection_counts[:, -1] == 0)",
        ),
        ("PREDICT one-sided", "np.minimum(1.0, 2 * tail)", "np.minimum(1.0, 1 * tail)"),
    ),
    *_faults(
        "T-CERTIFY",
        "tests/decrop/smoothing/test_two_sided.py",
        ("the grid at the whole level", "_GRID_FAILURES = 1.9", "_GRID_FAILURES = 1.0"),
        (
            "p_B above 1 - p_A",
            "second.append(np.maximum(first[-1], runner_up))",
            "second.append(runner_up)",
        ),
    ),
    *_faults(
        "sequential tests",
        "tests/decrop/smoothing/test_sequential.py",
        (
            "one success too many",
            "limits.append(lowest + succeeding - 1)",
            "limits.append(lowest + succeeding)",
        ),
        ("spending forgotten", "spent += float(unsuccessful[:succeeding].sum())", "spent += 0.0"),
    ),
    *_faults(
        "several sigmas",
        "tests/decrop/smoothing/test_envelope.py tests/decrop/trial/test_several_sigmas.py",
        (
            "the envelope at the whole level",
            "return failure_probability / parts",
            "return failure_probability",
        ),
        (
            "denoisers not told",
            "network=told_sigma(task.network, config.sigma),",
            "network=task.network,",
        ),
    ),
    *_faults(
        "rejections",
        "tests/decrop/rejection/test_certificates.py",
        (
            "each bound at the whole level",
            "lower_confidence_bound(accepted, samples, failure_probability / 2)",
            "lower_confidence_bound(accepted, samples, failure_probability)",
        ),
    ),
]
SAMPLING = [
    *_faults(
        "noise",
        "tests/decrop/smoothing/test_noise.py",
        (
            "thresholds a step off",
            "tails = [mpmath.ncdf(-(j + 0.5) * step) * 2**_BITS for j in range(reach)]",
            "tails = [mpmath.ncdf(-(j + 1.0) * step) * 2**_BITS for j in range(reach)]",
        ),
        (
            "Philox with nine rounds",
            "    for _ in range(10):\n        (high_a, low_a)",
            "    for _ in range(9):\n        (high_a, low_a)",
        ),
        ("the cut at four standard deviations", "_CUT = 6", "_CUT = 4"),
    ),
    *_faults(
        "sampling",
        "tests/decrop/smoothing/test_sampling.py",
        (
            "noise by position, not by image",
            "[(self._image_ids[r.image], r.stream, r.chunk) for r in requests]",
            "[(r.image, r.stream, r.chunk) for r in requests]",
        ),
        (
            "non-finite logits counted as a class",
            "torch.where(finite, logits.argmax(dim=1), task.class_count)",
            "logits.argmax(dim=1)",
        ),
        (
            "whole chunks counted",
            "(self._numbers < samples[:, None])",
            "(self._numbers <= samples[:, None])",
        ),
        (
            "a last batch with empty slots",
            "min(chunks_per_batch, 1 << (((left + 1) // 2).bit_length() - 1))",
            "chunks_per_batch",
        ),
    ),
    *_faults(
        "journal",
        "tests/decrop/smoothing/test_journal.py",
        (
            "damaged records kept",
            'whole = _adding_up(records) & (records["checksum"] == self._checksums(records))',
            "whole = _adding_up(records)",
        ),
        (
            "the network forgotten in the identity",
            '"network": network_identity(task.network),',
            '"network": "",',
        ),
    ),
]
SEARCH = [
    *_faults(
        "search",
        "tests/tune/test_searcher.py tests/tune/test_study.py",
        (
            "one stream for all trials",
            'derive_seed(sweep.search_seed, "search", number)',
            'derive_seed(sweep.search_seed, "search", 0)',
        ),
        (
            "pruned trials told as failed",
            'state = "complete" if result.get("finished") is True else "pruned"',
            'state = "complete" if result.get("finished") is True else "failed"',
        ),
        (
            "evaluations reported twice",
            "self._running[trial_id][1].setdefault(int(step), value)",
            "self._running[trial_id][1][int(step)] = value",
        ),
        (
            "ended trials forgotten",
            "            study.add_trial(trial)",
            "            pass",
        ),
        (
            "proposals that know what happens to have ended",
            "if n <= number - lag}",
            "if n <= number}",
        ),
    ),
    *_faults(
        "pruning",
        "tests/tune/test_scheduler.py",
        (
            "trial 0 stopped",
            'stops = not goes_on and not trial.config["reference"]',
            "stops = not goes_on",
        ),
        (
            "lower scores better",
            "score >= float(np.percentile(others, best))",
            "score <= float(np.percentile(others, best))",
        ),
    ),
]
TRACKING = [
    *_faults(
        "tracking",
        "tests/tune/mlflow/test_catching_up.py tests/tune/mlflow/test_tracker.py",
        (
            "points logged again",
            "new = [m for m in view.measurements if m.step not in run.steps_of(client, m.metric)]",
            "new = list(view.measurements)",
        ),
        (
            "a digest before all is logged",
            "self._log_values(run, view, {SYNCED_TAG: digest})",
            "self._log_values(run, view, {})",
        ),
        (
            "deleted runs made again",
            "if view is not None and (run is None or not run.deleted):",
            "if view is not None:",
        ),
        (
            "changed files not copied again",
            "if run.artifacts.get(name) != stamps.get(name):",
            "if name not in run.artifacts:",
        ),
    ),
]
BUNDLES = [
    *_faults(
        "bundle",
        "tests/decrop/bundle/test_export.py tests/decrop/bundle/test_malformed.py"
        " tests/decrop/cli/test_verify.py",
        ("checksums not compared", "if sha256_of_file(file) != checksum:", "if False:"),
        (
            "links out of the bundle followed",
            "return (folder / path).resolve().is_relative_to(home.resolve())",
            "return True",
        ),
        ("another classifier", 'if protected.content_hash() != hashes["classifier"]:', "if False:"),
        ("doubled images", '_require(path, first, "idx"', '_require(path, first | True, "idx"'),
    ),
]
FAULTS = (*LOSSES, *TRAINING, *CERTIFICATES, *SAMPLING, *SEARCH, *TRACKING, *BUNDLES)
