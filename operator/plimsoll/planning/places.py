"""Where running placements are, and whether that still counts to their pools."""

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.plan import Finding
from plimsoll.planning.pools import Pools
from plimsoll.planning.snapshot import ObjectRef, PodFacts, Snapshot

_Key = tuple[str, str]
"""Namespace and name."""


class Places:
    """Where each LLMDeployment's running placements are, and whether that still counts to their pools."""

    def __init__(self, snapshot: Snapshot, pools: Pools) -> None:
        self._pools = pools
        self._own: dict[_Key, dict[str, str]] = {}
        for workload in snapshot.workloads:
            own = self._own.setdefault((workload.namespace, workload.deployment), {})
            own[workload.name] = workload.option.get("pool", "")
        self._pods: dict[_Key, list[PodFacts]] = {}
        for pod in snapshot.pods:
            if pod.placement:
                self._pods.setdefault((pod.namespace, pod.placement), []).append(pod)
        self._present = None if snapshot.nodes is None else {node.name for node in snapshot.nodes}
        self._member = {(pool.name, node.name) for pool in pools.usable.values() for node in pool.nodes}

    def stranded(self, deployment: LLMDeployment) -> list[Finding]:
        """Running placements whose pool or node does not count any more: they are kept, so nothing else is decided."""
        ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
        findings: list[Finding] = []
        own = self._own.get((deployment.namespace, deployment.name), {})
        for workload, pool in sorted(own.items()):
            if pool in self._pools.usable:
                continue
            why = self._pools.rejected.get(pool)
            state = f"cannot be used ({why})" if why else "does not exist any more"
            message = (
                f"placement {workload} runs on GPUNodePool {pool}, which {state}; "
                "it is kept as it is until the pool is back"
            )
            findings.append(Finding(ref, "PoolMissing", message))
        if self._present is None or findings:
            return findings
        pods = [pod for name in own for pod in self._pods.get((deployment.namespace, name), ())]
        for pod in sorted(pods, key=lambda pod: (pod.name, pod.uid)):
            if pod.node in self._present and (own[pod.placement], pod.node) not in self._member:
                message = (
                    f"placement {pod.placement} runs on node {pod.node}, which does not count to GPUNodePool "
                    f"{own[pod.placement]} now; it is kept as it is until selector and product of the pool agree "
                    "with it"
                )
                return [Finding(ref, "NodeOutsidePool", message)]
        return findings
