import copy
import pickle

import pytest
import torch
from torch import nn

from decrop.errors import InputError
from decrop.rejection.network import check_certificate, is_rejected, outcomes
from decrop.smoothing.journal import RecordedSampler
from decrop.smoothing.prepare import fold_batch_norms
from decrop.smoothing.sampling import ESTIMATION, SELECTION, CountRequest, LocalSampler
from tests.decrop.rejecting import CLASSES, SHAPE, rejecting_network
from tests.decrop.smoothing.rejecting_task import direct_counts, rejecting_task

CPU = torch.device("cpu")
REQUESTS = [
    CountRequest(image, stream, chunk, samples)
    for image in range(3)
    for stream, chunk, samples in ((SELECTION, 0, 16), (ESTIMATION, 0, 16), (ESTIMATION, 1, 9))
]


def test_the_head_of_the_predicted_class_decides() -> None:
    logits = torch.tensor([[3.0, 1.0], [3.0, 1.0], [1.0, 3.0], [1.0, 3.0]])
    heads = torch.tensor([[-1.0, 9.0], [1.0, -9.0], [9.0, -1.0], [-9.0, 1.0]])
    votes = outcomes(logits, heads, threshold=0.5)
    assert votes.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_a_head_rejects_above_its_threshold_only() -> None:
    heads = torch.tensor([[0.0], [1e-6], [torch.logit(torch.tensor(0.9)) - 1e-3]])
    classes = torch.zeros(3, dtype=torch.int64)
    assert is_rejected(classes, heads, threshold=0.5).tolist() == [False, True, True]
    assert is_rejected(classes, heads, threshold=0.9).tolist() == [False, False, False]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    logits, heads = torch.zeros(3, 2), torch.zeros(3, 2)
    logits[1, 1] = bad
    heads[2, 0] = bad
    votes = outcomes(logits, heads, threshold=0.5)
    assert votes.isfinite().all(dim=1).tolist() == [True, False, False]


def test_outcomes_survive_bf16() -> None:
    logits = torch.tensor([[300.0, 1.0], [300.0, 1.0]], dtype=torch.bfloat16)
    heads = torch.tensor([[0.1, 0.0], [-0.1, 0.0]], dtype=torch.bfloat16)
    assert outcomes(logits, heads, threshold=0.5).argmax(1).tolist() == [2, 0]


def test_counts_are_those_of_a_direct_loop() -> None:
    task = rejecting_task()
    counts = LocalSampler(task, CPU).class_counts(REQUESTS)
    expected = direct_counts(task, REQUESTS)
    assert counts.tolist() == expected.tolist()
    rejected = counts[:, CLASSES].sum() / counts.sum()
    assert 0.2 < rejected < 0.8
    assert (counts[:, :CLASSES].sum(0) > 0).sum() >= 2
    assert counts[:, -1].sum() == 0


def test_counts_are_the_same_in_another_process() -> None:
    task = rejecting_task()
    there = pickle.loads(pickle.dumps(task))
    counts = LocalSampler(task, CPU).class_counts(REQUESTS)
    torch.set_num_threads(3)
    try:
        assert (LocalSampler(there, CPU).class_counts(REQUESTS[::-1])[::-1] == counts).all()
    finally:
        torch.set_num_threads(1)


def test_a_journal_of_another_threshold_answers_nothing(tmp_path) -> None:
    answered = []
    for threshold in (0.5, 0.5, 0.4):
        task = rejecting_task(threshold=threshold)
        sampler = LocalSampler(task, CPU)
        with RecordedSampler(sampler, tmp_path / "counts", task, CPU) as recorded:
            answered.append(len(recorded._answers))
            recorded.class_counts(REQUESTS)
    assert answered == [0, len(REQUESTS), 0]


def test_all_parts_are_folded() -> None:
    network = rejecting_network()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.8, 1.2)
    folded = copy.deepcopy(network)
    fold_batch_norms(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.rand(50, *SHAPE)
    denoised = network.denoiser(images)
    logits, maps = network.classifier(denoised)
    folded_logits, folded_maps = folded.classifier(denoised)
    assert torch.allclose(logits, folded_logits, atol=1e-4)
    heads = network.rejector(denoised, maps)
    assert torch.allclose(folded.rejector(denoised, folded_maps), heads, atol=1e-4)
    assert torch.equal(network(images), folded(images))


@pytest.mark.parametrize(
    ("certificate", "rejecting", "message"),
    [
        ("cohen", True, "it must be rejection"),
        ("t_certify_grid", True, "it must be rejection"),
        ("rejection", False, "there is no rejector here"),
    ],
)
def test_a_certificate_of_other_counts_is_refused(
    certificate: str, rejecting: bool, message: str
) -> None:
    check_certificate(certificate, rejecting=not rejecting)
    with pytest.raises(InputError, match=message):
        check_certificate(certificate, rejecting=rejecting)
