"""How the inference engine of an LLMDeployment is run: images, arguments, memory of weights, pods."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from plimsoll.api.arguments import ExtraArgument
from plimsoll.api.common import APIModel, DNSSubdomain, ImageName, Integer, SecretKeyReference
from plimsoll.api.pods import Environment, PodTemplate
from plimsoll.api.rules import Rule


class EngineImages(APIModel):
    """Container images of the engine, by GPU vendor."""

    nvidia: Annotated[
        ImageName | None, Field(description="Image for NVIDIA GPUs. When absent, the one this release pins.")
    ] = None
    amd: Annotated[
        ImageName | None,
        Field(
            description="Image for AMD GPUs. When absent, the one this release pins, if any; "
            "else such pools are left out."
        ),
    ] = None


class PersistentVolumeClaim(APIModel):
    """A claim in the same namespace."""

    claim_name: Annotated[DNSSubdomain, Field(description="Name of the PersistentVolumeClaim, in the same namespace.")]


class EmptyDir(APIModel):
    """A volume that lives as long as the pod."""

    size_limit: Annotated[
        str | None,
        Strict(),
        Field(
            max_length=16,
            pattern=r"^[1-9][0-9]{0,6}(\.[0-9]{1,3})?(Mi|Gi|Ti|M|G|T)$",
            description="Largest size as a quantity, such as 200Gi. When absent, what the node has.",
            json_schema_extra={"accepted": "a quantity of storage such as 200Gi"},
        ),
    ] = None


class HostPath(APIModel):
    """A folder of the node."""

    path: Annotated[
        str,
        Strict(),
        Field(
            min_length=2,
            max_length=255,
            pattern=r"^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$",
            description="Absolute path of a folder that every node of the pools has and that user 2000 may write.",
            json_schema_extra={"accepted": "an absolute path such as /var/lib/models, without hidden folders"},
        ),
    ]


class ModelCache(APIModel):
    """Where weights are kept."""

    rules = (
        Rule(
            cel="[has(self.persistentVolumeClaim), has(self.emptyDir), has(self.hostPath)].filter(x, x).size() == 1",
            message="modelCache must hold exactly one of persistentVolumeClaim, emptyDir and hostPath",
            holds=lambda c: [c.persistent_volume_claim, c.empty_dir, c.host_path].count(None) == 2,
        ),
    )

    persistent_volume_claim: Annotated[
        PersistentVolumeClaim | None,
        Field(description="A claim that all pods mount. With several nodes it must allow ReadWriteMany."),
    ] = None
    empty_dir: Annotated[
        EmptyDir | None, Field(description="A volume of each pod: every start downloads the weights anew.")
    ] = None
    host_path: Annotated[
        HostPath | None,
        Field(
            description="A folder of the node, shared by all pods there. Needs spec.security.allowHostPath of the "
            "PlacementPolicy, and a namespace without the restricted or baseline Pod Security Standard."
        ),
    ] = None


class Engine(APIModel):
    """How the inference engine is run."""

    rules = (
        Rule(
            cel="!has(self.type) || self.type != 'petals' || has(self.images) && "
            "(has(self.images.nvidia) || has(self.images.amd))",
            message="with type petals, images.nvidia must name an image with PETALS and plimsoll-petals: "
            "Plimsoll pins none",
            holds=lambda e: e.type != "petals" or e.images != EngineImages(),
            field="images",
        ),
        Rule(
            cel="!has(self.type) || self.type != 'petals' || !has(self.extraArgs) || self.extraArgs.size() == 0",
            message="extraArgs are vLLM's; with type petals the list must be empty",
            holds=lambda e: e.type != "petals" or not e.extra_args,
            field="extraArgs",
        ),
    )

    type: Annotated[
        Literal["vllm", "petals"],
        Field(
            description="The inference engine: vllm, or petals with placement.mode Chained, which needs an image of "
            "yours. Default vllm."
        ),
    ] = "vllm"
    images: Annotated[
        EngineImages, Field(description="Container images by GPU vendor. When absent, those this release pins.")
    ] = EngineImages()
    max_model_length: Annotated[
        Integer | None,
        Field(
            ge=16,
            le=10_000_000,
            description="Longest sequence (prompt and answer) in tokens that a replica accepts; memory is kept for it. "
            "When absent, the model's context length, 32768 at most.",
        ),
    ] = None
    extra_args: Annotated[
        tuple[ExtraArgument, ...],
        Field(
            max_length=64,
            description="Further command-line arguments of the engine, such as --enable-prefix-caching. "
            "Flags that Plimsoll sets or that load code by name are refused; --trust-remote-code needs "
            "spec.security.allowTrustRemoteCode of the PlacementPolicy.",
        ),
    ] = ()
    env: Annotated[Environment, Field(description="Further environment variables of the engine's container.")] = ()
    hugging_face_token_secret_ref: Annotated[
        SecretKeyReference | None,
        Field(
            description="Key of a Secret with a Hugging Face token, for gated models. When absent, no token is used."
        ),
    ] = None
    model_cache: Annotated[
        ModelCache, Field(description="Where weights are kept: a claim or a volume of each pod. Default: emptyDir.")
    ] = ModelCache(empty_dir=EmptyDir())
    pod_template: Annotated[
        PodTemplate, Field(description="What is added to the pods. Only what is listed here may be set.")
    ] = PodTemplate()
