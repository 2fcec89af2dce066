"""NVIDIA GPUs as XLA:GPU knows them, for programs that are compiled without having one."""

from dataclasses import dataclass

_TEXT = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_per_core}
  threads_per_core_limit: {threads_per_core}
  core_count: {cores}
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bytes_per_s:.0f}
  l2_cache_size: {l2_bytes}
  clock_rate_ghz: {clock_ghz}
  device_memory_size: {memory_bytes}
  shared_memory_per_block_optin: {shared_per_block}
  cuda_compute_capability {{ major: {major} minor: {minor}{features} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{description}"
"""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU. Rates and sizes are those of its maker's data sheet.

    sizes   The numbers of GPUs that programs are compiled for.
    """

    name: str
    description: str
    sizes: tuple[int, ...] = (1,)
    memory_bytes: int
    bytes_per_s: float
    flops_per_s: float
    major: int
    minor: int = 0
    features: str = ""
    cores: int
    clock_ghz: float
    l2_bytes: int
    shared_per_core: int = 233472
    shared_per_block: int = 232448
    threads_per_core: int = 2048

    @property
    def architecture(self) -> str:
        """The name by which ptxas knows it."""
        return f"sm_{self.major}{self.minor}{'a' if self.features else ''}"

    def describe(self) -> str:
        """Return the text of its GpuTargetConfigProto."""
        return _TEXT.format(**{name: getattr(self, name) for name in self.__dataclass_fields__})


_ACCELERATED = " feature_extension: ACCELERATED_FEATURES"
_HOPPER = {"major": 9, "features": _ACCELERATED, "cores": 132, "clock_ghz": 1.98, "l2_bytes": 52428800}
GPUS = (
    Gpu(
        **_HOPPER,
        name="h100",
        description="NVIDIA H100 80GB HBM3",
        sizes=(1, 8),
        memory_bytes=85029158912,
        bytes_per_s=3350e9,
        flops_per_s=989e12,
    ),
    Gpu(
        **_HOPPER,
        name="h200",
        description="NVIDIA H200 141GB HBM3e",
        sizes=(1, 8),
        memory_bytes=151397597184,
        bytes_per_s=4800e9,
        flops_per_s=989e12,
    ),
    Gpu(
        name="b200",
        description="NVIDIA B200",
        memory_bytes=191513952256,
        bytes_per_s=8000e9,
        flops_per_s=2250e12,
        major=10,
        features=_ACCELERATED,
        cores=148,
        clock_ghz=1.965,
        l2_bytes=132644864,
    ),
    Gpu(
        name="a100",
        description="NVIDIA A100-SXM4-80GB",
        memory_bytes=85095874560,
        bytes_per_s=2039e9,
        flops_per_s=312e12,
        major=8,
        cores=108,
        clock_ghz=1.41,
        l2_bytes=41943040,
        shared_per_core=167936,
        shared_per_block=166912,
    ),
    Gpu(
        name="l4",
        description="NVIDIA L4",
        memory_bytes=23674748928,
        bytes_per_s=300e9,
        flops_per_s=121e12,
        major=8,
        minor=9,
        cores=58,
        clock_ghz=2.04,
        l2_bytes=50331648,
        shared_per_core=102400,
        shared_per_block=101376,
        threads_per_core=1536,
    ),
)
