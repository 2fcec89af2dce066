"""NVIDIA GPUs as compilers and predictions need them, none of which has to be here.

Sizes, clocks and rates of memories are those of openxla/xla, xla/backends/gpu/target_config/specs, read from devices;
those of the L4 stand in NVIDIA's data sheet, and its memory is what PyTorch reports (22.03 GiB). What all multiply in
dense bfloat16 and their links (NVLink, PCIe for the L4, one direction) stand in the data sheets. Names are those that
CUDA gives the devices, because programs are found by them: an H200 is "NVIDIA H200" to CUDA, and has a longer name in
XLA's own file.
"""

from dataclasses import dataclass

_CONFIG = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_bytes}
  threads_per_core_limit: {max_threads}
  core_count: {num_processors}
  fpus_per_core: {num_fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bytes_per_s:.0f}
  l2_cache_size: {l2_bytes}
  clock_rate_ghz: {clock_ghz}
  device_memory_size: {memory_bytes}
  shared_memory_per_block_optin: {program_shared_bytes}
  cuda_compute_capability {{ major: {major} minor: {minor}{features} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{device_kind}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A kind of GPU.

    name               Its short name, of which names of targets are made.
    device_kind        What CUDA calls it, and JAX after it.
    memory_bytes       What CUDA says that it has.
    bytes_per_s        Read from its memory in a second.
    flops_per_s        Additions and multiplications in bfloat16 in a second.
    link_bytes_per_s   Sent to other GPUs of the machine in a second.
    major, minor       The compute capability.
    num_processors     The number of multiprocessors.
    products           bfloat16 multiply-adds of a multiprocessor in a cycle.
    num_fpus           float32 units of a multiprocessor.
    clock_ghz          The highest clock.
    l2_bytes           The size of the cache that all multiprocessors share.
    shared_bytes       Shared memory of a multiprocessor.
    max_threads        Threads of a multiprocessor at a time.
    """

    name: str
    device_kind: str
    memory_bytes: int
    bytes_per_s: float
    flops_per_s: float
    link_bytes_per_s: float
    major: int
    minor: int = 0
    num_processors: int
    products: int
    num_fpus: int = 128
    clock_ghz: float
    l2_bytes: int
    shared_bytes: int = 233472
    max_threads: int = 2048

    @property
    def architecture(self) -> str:
        """The name by which ptxas knows it, with the instructions of this generation alone."""
        return f"sm_{self.major}{self.minor}{'a' if self.has_own_instructions else ''}"

    @property
    def compute_capability(self) -> float:
        """The compute capability."""
        return float(f"{self.major}.{self.minor}")

    @property
    def ridge(self) -> float:
        """The products a second for each bfloat16 number that it reads from its memory in a second."""
        return self.flops_per_s / self.bytes_per_s  # a product is two operations, and a number two bytes

    @property
    def has_own_instructions(self) -> bool:
        """Whether it has instructions that no later generation has: wgmma, and what followed it."""
        return self.major >= 9

    @property
    def program_shared_bytes(self) -> int:
        """The most shared memory of a program; CUDA keeps 1 KiB for itself."""
        return self.shared_bytes - 1024

    @property
    def product_hz(self) -> float:
        """The clock at which it multiplies as fast as the data sheet says."""
        return self.flops_per_s / (2 * self.num_processors * self.products)

    @property
    def config_text(self) -> str:
        """The text form of its GpuTargetConfigProto, which XLA compiles for."""
        features = " feature_extension: ACCELERATED_FEATURES" if self.has_own_instructions else ""
        derived = {"program_shared_bytes": self.program_shared_bytes, "features": features}
        return _CONFIG.format(**derived, **{name: getattr(self, name) for name in self.__dataclass_fields__})


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="h100",
            device_kind="NVIDIA H100 80GB HBM3",
            memory_bytes=84_942_979_072,
            bytes_per_s=3.35232e12,
            flops_per_s=989e12,
            link_bytes_per_s=450e9,
            major=9,
            num_processors=132,
            products=2048,
            clock_ghz=1.98,
            l2_bytes=52_428_800,
        ),
        Gpu(
            name="h200",
            device_kind="NVIDIA H200",
            memory_bytes=151_397_597_184,
            bytes_per_s=4.8e12,
            flops_per_s=989e12,
            link_bytes_per_s=450e9,
            major=9,
            num_processors=132,
            products=2048,
            clock_ghz=1.98,
            l2_bytes=52_428_800,
        ),
        Gpu(
            name="b200",
            device_kind="NVIDIA B200",
            memory_bytes=191_514_411_008,
            bytes_per_s=7.67232e12,
            flops_per_s=2250e12,
            link_bytes_per_s=900e9,
            major=10,
            num_processors=148,
            products=4096,
            clock_ghz=1.965,
            l2_bytes=132_644_864,
        ),
        Gpu(
            name="a100",
            device_kind="NVIDIA A100-SXM4-80GB",
            memory_bytes=85_100_068_864,
            bytes_per_s=2.03904e12,
            flops_per_s=312e12,
            link_bytes_per_s=300e9,
            major=8,
            num_processors=108,
            products=1024,
            num_fpus=64,
            clock_ghz=1.41,
            l2_bytes=41_943_040,
            shared_bytes=167_936,
        ),
        Gpu(
            name="l4",
            device_kind="NVIDIA L4",
            memory_bytes=22_563 * 2**20,
            bytes_per_s=0.3e12,
            flops_per_s=121e12,
            link_bytes_per_s=32e9,
            major=8,
            minor=9,
            num_processors=58,
            products=512,
            clock_ghz=2.04,
            l2_bytes=50_331_648,
            shared_bytes=102_400,
            max_threads=1536,
        ),
    )
}
