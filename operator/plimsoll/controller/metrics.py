"""Every metric of the operator, in one place. Only what is about traffic has a series for each traffic class."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(slots=True)
class Metrics:
    """Metrics in a registry of their own, so that several operators can live in one test process."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    feed_events: Counter = field(init=False)
    feed_last_event: Gauge = field(init=False)
    store_objects: Gauge = field(init=False)
    audit_drift: Counter = field(init=False)
    plan_seconds: Histogram = field(init=False)
    planning: Gauge = field(init=False)
    plan_results: Counter = field(init=False)
    actions: Counter = field(init=False)
    apply_seconds: Histogram = field(init=False)
    drift_corrected: Counter = field(init=False)
    blast_radius_held: Gauge = field(init=False)
    api_requests: Counter = field(init=False)
    events: Counter = field(init=False)
    awaiting_approval: Gauge = field(init=False)
    deployments: Gauge = field(init=False)
    cost_per_hour: Gauge = field(init=False)
    pool_gpus: Gauge = field(init=False)
    rounds: Counter = field(init=False)
    loop_lag_seconds: Gauge = field(init=False)
    synced: Gauge = field(init=False)
    leader: Gauge = field(init=False)
    leader_transitions: Gauge = field(init=False)
    telemetry_up: Gauge = field(init=False)
    correction_factor: Gauge = field(init=False)
    correction_estimate: Gauge = field(init=False)
    metrics_fresh: Gauge = field(init=False)
    traffic: Gauge = field(init=False)
    slo_attainment: Gauge = field(init=False)
    slo_burn_rate: Gauge = field(init=False)
    slo_latency: Gauge = field(init=False)

    def __post_init__(self) -> None:
        r = self.registry
        self.feed_events = Counter("plimsoll_feed_events", "Watch events received.", ["kind"], registry=r)
        self.feed_last_event = Gauge(
            "plimsoll_feed_last_event_timestamp_seconds",
            "When the last event of a kind came, or a bookmark (of Plimsoll's own kinds bookmarks do not count).",
            ["kind"],
            registry=r,
        )
        self.store_objects = Gauge("plimsoll_store_objects", "Objects known.", ["kind"], registry=r)
        self.audit_drift = Counter(
            "plimsoll_audit_drift", "Differences between store and API server.", ["kind", "type"], registry=r
        )
        self.plan_seconds = Histogram("plimsoll_plan_seconds", "Duration of planning.", registry=r, buckets=_SECONDS)
        self.planning = Gauge("plimsoll_planning", "1 while a plan is being made.", registry=r)
        self.plan_results = Counter("plimsoll_plan_result", "Planning rounds by outcome.", ["result"], registry=r)
        self.actions = Counter("plimsoll_actions", "Writes by action and outcome.", ["action", "result"], registry=r)
        self.apply_seconds = Histogram(
            "plimsoll_apply_seconds", "Duration of a round's writes.", registry=r, buckets=_SECONDS
        )
        self.drift_corrected = Counter(
            "plimsoll_drift_corrected", "Objects that others changed or deleted, put back.", ["kind"], registry=r
        )
        self.blast_radius_held = Gauge(
            "plimsoll_blast_radius_held", "1 while nothing is taken away until a person looks.", registry=r
        )
        self.api_requests = Counter(
            "plimsoll_api_requests", "Requests of the apply side by verb and status code.", ["verb", "code"], registry=r
        )
        self.events = Counter("plimsoll_events", "Kubernetes Events by outcome.", ["result"], registry=r)
        self.awaiting_approval = Gauge(
            "plimsoll_awaiting_approval", "LLMDeployments whose changes wait for a person.", registry=r
        )
        self.deployments = Gauge("plimsoll_deployments", "LLMDeployments by state.", ["state"], registry=r)
        self.cost_per_hour = Gauge("plimsoll_cost_per_hour", "Cost of the plan per hour.", registry=r)
        self.pool_gpus = Gauge("plimsoll_pool_gpus", "GPUs of a pool by use.", ["pool", "use"], registry=r)
        self.rounds = Counter("plimsoll_rounds", "Turns of the control loop by outcome.", ["result"], registry=r)
        self.loop_lag_seconds = Gauge("plimsoll_loop_lag_seconds", "How late the event loop runs.", registry=r)
        self.synced = Gauge("plimsoll_synced", "1 when every kind is known completely.", registry=r)
        self.leader = Gauge("plimsoll_leader", "1 when this operator is the one that acts.", registry=r)
        self.leader_transitions = Gauge(
            "plimsoll_leader_transitions", "How often the Lease has changed hands, as last seen.", registry=r
        )
        self.telemetry_up = Gauge(
            "plimsoll_telemetry_up",
            "1 when it answered last time; absent where it is not asked.",
            ["source"],
            registry=r,
        )
        replicas = ["model", "precision", "accelerator", "parallelism", "phase"]
        self.correction_factor = Gauge(
            "plimsoll_correction_factor", "What predicted step times are multiplied by.", replicas, registry=r
        )
        self.correction_estimate = Gauge(
            "plimsoll_correction_estimate", "Where the factor moves to; it follows beyond 3 %.", replicas, registry=r
        )
        deployment = ["namespace", "deployment"]
        self.metrics_fresh = Gauge(
            "plimsoll_metrics_fresh", "1 while the metrics of an LLMDeployment can be used.", deployment, registry=r
        )
        self.traffic = Gauge(
            "plimsoll_traffic_requests_per_minute",
            "Rate of a traffic class: observed, planned for, declared.",
            [*deployment, "traffic", "kind"],
            registry=r,
        )
        traffic = [*deployment, "traffic"]
        self.slo_attainment = Gauge(
            "plimsoll_slo_attainment",
            "Least share of requests within a target, over the targets of a traffic class.",
            [*traffic, "window"],
            registry=r,
        )
        self.slo_burn_rate = Gauge(
            "plimsoll_slo_burn_rate",
            "Share of requests beyond a target by the share that its percentile allows, the highest of the targets.",
            [*traffic, "window"],
            registry=r,
        )
        self.slo_latency = Gauge(
            "plimsoll_slo_latency_seconds",
            "A latency in the statistic of its target: target, predicted, observed in the last 5 minutes.",
            [*traffic, "metric", "kind"],
            registry=r,
        )
