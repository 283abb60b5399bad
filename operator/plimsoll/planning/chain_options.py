"""Servers of chains as options: what an engine needs to start its part, and whether what runs is still asked for."""

from collections.abc import Sequence

from plimsoll import __version__
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.llmdeployment import Precision as DeclaredPrecision
from plimsoll.catalog import ModelArchitecture, Precision
from plimsoll.performance import Parallelism, ReplicaShape, load_seconds
from plimsoll.planning.chain_names import ChainNames
from plimsoll.planning.images import engine_image
from plimsoll.planning.plan import HostDemand, Option, Stage
from plimsoll.planning.pools import Pool, Pools
from plimsoll.planning.renewal import wants_renewal
from plimsoll.planning.running_chains import RunningChain
from plimsoll.planning.variants import host_demand, load_bucket


def server_host(tensor: int) -> HostDemand:
    """CPU and memory of a server: as of a pod whose ranks work together with others."""
    return host_demand(tensor, alone=False)


def checkpoint_of(deployment: LLMDeployment, model: ModelArchitecture, declared: DeclaredPrecision) -> str | None:
    """What the engine loads; None where int8 or int4 weights are needed and none are known."""
    if deployment.spec.engine.type == "petals":
        # PETALS quantises the model's own weights as it loads them.
        return declared.checkpoint or model.name
    return declared.checkpoint or model.checkpoint(declared.name)


def server_options(
    deployment: LLMDeployment,
    model: ModelArchitecture,
    precision: Precision,
    stages: Sequence[Stage],
    pools: Sequence[Pool],
    tensor: int,
    places: int,
    max_model_length: int,
    cache_tokens: int,
) -> tuple[Option, ...]:
    """The servers of a chain, in order."""
    declared = next(
        item
        for one in deployment.spec.models
        if one.name.lower() == model.name.lower()
        for item in one.precisions
        if item.name == precision.name
    )
    petals = deployment.spec.engine.type == "petals"
    checkpoint = checkpoint_of(deployment, model, declared) or model.name
    own = checkpoint == model.name and precision.name != model.native_precision and not petals
    options = []
    for stage, pool in zip(stages, pools, strict=True):
        shape = ReplicaShape(model, precision, pool.gpu, Parallelism(tensor, 1), max_model_length)
        options.append(
            Option(
                model=model.name,
                precision=precision.name,
                checkpoint=checkpoint,
                pool=pool.name,
                parallelism=Parallelism(tensor, 1),
                max_num_seqs=places,
                max_model_length=max_model_length,
                cache_tokens=cache_tokens if petals else 0,
                image=engine_image(deployment.spec.engine, pool.gpu.vendor) or "",
                gpu_resource=pool.resource_name,
                engine_args=precision.engine_args if own else (),
                host=server_host(tensor),
                load_seconds=load_bucket(load_seconds(shape)),
                gated=model.gated,
                stage=stage,
            )
        )
    return tuple(options)


def obsolete(deployment: LLMDeployment, chain: RunningChain, pools: Pools) -> bool:
    """Whether a running chain is not what people ask for any more, or was edited."""
    allowed = deployment.spec.placement.pools
    if any(
        item.option["pool"] not in pools.usable or (allowed is not None and item.option["pool"] not in allowed)
        for item in chain.servers
    ):
        return True
    declared = {(model.name, one.name) for model in deployment.spec.models for one in model.precisions}
    tensor = int(chain.servers[0].option["tensor"])
    if (chain.model, chain.precision) not in declared or tensor not in deployment.spec.placement.parallelism.tensor:
        return True
    made = [item.made for item in chain.servers]
    renewed = wants_renewal(deployment)
    if any(one is None or (renewed and one.release != __version__) for one in made):
        return True
    said = tuple(_as_it_runs(chain, number) for number in range(len(chain.servers)))
    asked = ChainNames(deployment).asked(said, [pools.usable[option.pool] for option in said])
    return asked != tuple(one.asked for one in made if one is not None)


def _as_it_runs(chain: RunningChain, number: int) -> Option:
    """As far as the annotations say it: enough for the fingerprint."""
    item = chain.servers[number]
    made = item.made
    tensor = int(item.option["tensor"])
    return Option(
        model=chain.model,
        precision=chain.precision,
        checkpoint=made.checkpoint if made is not None else "",
        pool=item.option["pool"],
        parallelism=Parallelism(tensor, 1),
        max_num_seqs=chain.places,
        max_model_length=chain.max_model_length,
        cache_tokens=chain.cache_tokens,
        image=made.image if made is not None else "",
        gpu_resource="",
        engine_args=(),
        host=server_host(tensor),
        load_seconds=0.0,
        gated=False,
        stage=Stage(chain.name, number, item.option["node"], item.option.get("region", ""), chain.partition),
    )
