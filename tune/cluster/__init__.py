"""The Ray cluster a sweep runs on, and files that start one."""

from tune.cluster.connection import Claim, Claims, ClusterSize, claims, cluster, local_size

__all__ = ["Claim", "Claims", "ClusterSize", "claims", "cluster", "local_size"]
