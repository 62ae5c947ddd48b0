"""Numbers of samples by the host that took them."""

from collections.abc import Mapping
from typing import Literal

Role = Literal["trial", "helpers"]
SamplesByHost = dict[str, dict[Role, int]]


class SampleCounts:
    """Numbers of samples by the host that took them, as the trial itself or as a helper."""

    def __init__(self, earlier: Mapping[str, Mapping[Role, int]] | None = None) -> None:
        """Count on from what was sampled before the trial was cut off."""
        self.by_host: SamplesByHost = {
            host: dict(by_role) for host, by_role in (earlier or {}).items()
        }

    def add(self, host: str, role: Role, samples: int) -> None:
        """Count samples that a host, as Ray names it, has taken."""
        by_role = self.by_host.setdefault(host, {"trial": 0, "helpers": 0})
        by_role[role] += samples
