"""Samplers on a Ray cluster for `decrop certify`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from decrop.config import TrialConfig
from decrop.smoothing.execution import resolve_device
from decrop.smoothing.sampling import MakeSampler
from tune.cluster import claims, cluster
from tune.shards import ShardedSampler
from tune.sweep_file import ResourceSettings


@contextmanager
def cluster_samplers(
    config: TrialConfig, helpers: int, address: str | None
) -> Iterator[MakeSampler]:
    """Yield the maker of samplers that work in this process and in helpers on a cluster.

    Args:
        helpers: processes that sample too, one CPU each and a share of a GPU where there are any.
        address: of a running cluster (`auto` or HOST:PORT); None starts one on this machine.
    """
    device = resolve_device(config.execution.device)
    with cluster(address) as size:
        helper = claims(ResourceSettings(), size, config.execution.device).helper
        threads = torch.get_num_threads()
        if address is None:
            # This process and the helpers share one machine.
            torch.set_num_threads(max(1, threads - helpers))
        try:
            yield lambda task: ShardedSampler(task, device, helper=helper, max_helpers=helpers)
        finally:
            torch.set_num_threads(threads)
