"""Environment variables of the engine that people may not set."""

from typing import Final

OWNED_VARIABLES: Final = (
    "HOME",
    "USER",
    "LOGNAME",
    "HF_HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "VLLM_CACHE_ROOT",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "VLLM_PORT",
    "VLLM_HOST_IP",
    "VLLM_PP_LAYER_PARTITION",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
    "PETALS_CACHE",
    "PLIMSOLL_POD_IP",
)
"""What Plimsoll sets itself, or what would void what it planned."""

DEVICE_VARIABLES: Final = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
)
"""They reach GPUs of the node that Kubernetes has given to other pods, or hide the pod's own."""

CODE_VARIABLES: Final = (
    "LD_PRELOAD",
    "LD_AUDIT",
    "PATH",
    "BASH_ENV",
    "ENV",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "VLLM_PLUGINS",
    "VLLM_CONFIG_ROOT",
    "VLLM_SERVER_DEV_MODE",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_API_KEY",
)
"""They make the engine run other code than its image's, open it to control by requests, or hold a secret."""

REFUSED_VARIABLES: Final = (*OWNED_VARIABLES, *DEVICE_VARIABLES, *CODE_VARIABLES)
