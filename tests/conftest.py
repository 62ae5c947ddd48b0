import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

# `make test-all` takes Hypothesis's own profile instead, with five times as many.
settings.register_profile("quick", max_examples=20, deadline=None)
settings.load_profile("quick")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give each test the same random numbers, whatever ran before it in its process."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute on one thread: small tensors wait for a second one longer than they take.

    Last bits depend on how many there are, so what is compared is computed under this.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
