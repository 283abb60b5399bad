"""A placement whose replicas span several nodes: a LeaderWorkerSet, one group of pods per replica.

As with Deployments, the templates are a pure function of what the placement's name stands for; only `replicas` changes.
"""

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning.plan import Placement, PoolPlan
from plimsoll.rendering import labels
from plimsoll.rendering.engine import vllm_nodes
from plimsoll.rendering.manifest import Manifest, metadata
from plimsoll.rendering.workload import engine_container, pod_template, serving_container


def render_group(owner: LLMDeployment, placement: Placement, pool: PoolPlan, replicas: int) -> Manifest:
    """The LeaderWorkerSet of a placement with `replicas` groups. Whatever it would default to is written out."""
    option = placement.option
    engine = owner.spec.engine
    leader = serving_container(option, vllm_nodes.leader_arguments(owner, option), vllm_nodes.environment(engine))
    worker = engine_container(
        option,
        vllm_nodes.worker_arguments(owner, option),
        vllm_nodes.environment(engine),
        ports=(),
        behaviour=vllm_nodes.worker_probes(option.load_seconds),
    )
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": metadata(
            owner,
            placement.name,
            labels.placement_labels(owner.name, placement.name, pool.name),
            labels.option_annotations(option),
        ),
        "spec": {
            "replicas": replicas,
            # The leader is ready only when the workers have joined it, so they must not wait for it.
            "startupPolicy": "LeaderCreated",
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {"partition": 0, "maxSurge": 1, "maxUnavailable": 0},
            },
            # One headless Service per group. The one that all groups would share has the name of the placement's own.
            "networkConfig": {"subdomainPolicy": "UniquePerReplica"},
            "leaderWorkerTemplate": {
                "size": option.nodes,
                # Ranks cannot join a running engine again: all start anew together.
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": pod_template(owner, placement, pool, leader),
                "workerTemplate": pod_template(owner, placement, pool, worker),
            },
        },
    }
