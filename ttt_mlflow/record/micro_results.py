"""The raw results of a micro-benchmark. The table and the charts are derived from them."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from ttt_mlflow.errors import DamagedRecord
from ttt_mlflow.names import GPU_MATMUL_TFLOPS, GPU_READ_GB_PER_S

MATRIX_DTYPES = ("float16", "bfloat16")  # to which the measured matrix rate applies

Status = Literal["ok", "oom", "error"]
# Of a step, generously: a picosecond and eleven days. A comparison computes with logarithms and squares of them.
Microseconds = Annotated[float, Field(ge=1e-6, le=1e12)]


class KernelResult(BaseModel):
    """One kernel before it is timed: its error and the time of its first use.

    title: what a chart calls what it computes; records of earlier versions have none, and inner nets alone.
    error: the largest of ``errors``, the relative errors against float64; None if it is not a number.
    first_use_s: time from before the kernel's import until the end of its first call, in this process.
    """

    name: str
    layer_type: str
    form: str
    title: str | None = None
    status: Status = "ok"
    message: str | None = None
    first_use_s: float | None = None
    error: float | None = None
    errors: dict[str, float] = {}


class CellResult(BaseModel):
    """One kernel with one batch.

    us: one value for each sample, in microseconds per step or prompt; each is the mean over ``launches`` launches.
    floor_bytes, flops: the minimum bytes and the operations of a step or prompt. promptlen: tokens of the prompt of
    each sequence; None for a decode step. Records of earlier versions have no ``flops`` and no prompts.
    overlap: whether a launch could begin before the previous one had ended. telemetry: NVML's metrics over the timed
    section. verdict, reasons: the verdict on the section and the names of its reasons. ended_ms: end of the section, in
    ms since 1970.
    """

    kernel: str
    batch: int
    floor_bytes: float
    flops: float | None = None
    promptlen: int | None = None
    status: Status = "ok"
    message: str | None = None
    us: list[Microseconds] = []
    launches: int | None = None
    copies: int | None = None
    copy_bytes: int | None = None
    overlap: bool = False
    telemetry: dict[str, float] = {}
    verdict: Literal["valid", "invalid", "unjudged"] | None = None
    reasons: list[str] = []
    ended_ms: int | None = None

    @property
    def quantiles(self) -> tuple[float, float, float] | None:
        """Median, 20th and 80th percentile of ``us``; None if nothing was timed."""
        if not self.us:
            return None
        median, low, high = np.quantile(self.us, [0.5, 0.2, 0.8])
        return float(median), float(low), float(high)

    @property
    def timed_s(self) -> float:
        """The seconds of all samples together."""
        return sum(self.us) * (self.launches or 1) / 1e6

    @property
    def gb_per_s(self) -> float | None:
        """The minimum bytes divided by the median time, in 10^9 bytes per second."""
        return self.floor_bytes / self.quantiles[0] / 1e3 if self.quantiles else None

    @property
    def tflops(self) -> float | None:
        """The operations divided by the median time, in 10^12 per second."""
        return self.flops / self.quantiles[0] / 1e6 if self.flops and self.quantiles else None

    @property
    def mode(self) -> Literal["decode", "prefill"]:
        return "decode" if self.promptlen is None else "prefill"

    @property
    def tokens(self) -> int:
        """The tokens of all sequences in a step or prompt."""
        return self.batch * (self.promptlen or 1)

    @property
    def tokens_per_s(self) -> float | None:
        """The tokens divided by the median time."""
        return 1e6 * self.tokens / self.quantiles[0] if self.quantiles else None


class MicroResults(BaseModel):
    """All results. ceilings: those of the GPU, by metric name; empty on a CPU."""

    config: dict[str, str]
    device_name: str
    l2_bytes: int | None = None
    ceilings: dict[str, float] = {}
    kernels: list[KernelResult] = []
    cells: list[CellResult] = []

    def kernel(self, name: str) -> KernelResult:
        return next(kernel for kernel in self.kernels if kernel.name == name)

    def cell(self, kernel: str, batch: int) -> CellResult | None:
        return next((cell for cell in self.cells if (cell.kernel, cell.batch) == (kernel, batch)), None)

    def read_ceiling_pct(self, cell: CellResult) -> float | None:
        """:meth:`gb_per_s` in percent of the GPU's read bandwidth."""
        ceiling = self.ceilings.get(GPU_READ_GB_PER_S.name)
        return 100 * cell.gb_per_s / ceiling if ceiling and cell.gb_per_s else None

    def matrix_ceiling_pct(self, cell: CellResult) -> float | None:
        """:attr:`CellResult.tflops` in percent of the GPU's matrix rate. None for a dtype without a measured rate."""
        ceiling = self.ceilings.get(GPU_MATMUL_TFLOPS.name) if self.config["dtype"] in MATRIX_DTYPES else None
        return 100 * cell.tflops / ceiling if ceiling and cell.tflops else None

    def roofline_pct(self, cell: CellResult) -> float | None:
        """The roofline time in percent of the median time. None if one of its two shares is not known.

        The roofline time is the larger of the times for the bytes and for the operations, so the larger share counts.
        """
        read, matrix = self.read_ceiling_pct(cell), self.matrix_ceiling_pct(cell)
        if cell.flops == 0:  # it multiplies no matrices
            matrix = 0.0
        return None if read is None or matrix is None else max(read, matrix)

    def l2_sizes(self, cell: CellResult) -> float | None:
        """The bytes of all timed copies, in multiples of the L2 size. None on a CPU and if nothing was timed."""
        if not self.l2_bytes or not cell.us or not cell.copies:
            return None
        return cell.copies * cell.floor_bytes / self.l2_bytes

    @property
    def failures(self) -> dict[str, str]:
        """What was not measured, and why: by kernel, or by kernel and batch."""
        found = {kernel.name: kernel.message or kernel.status for kernel in self.kernels if kernel.status != "ok"}
        for cell in self.cells:
            if cell.status != "ok" and cell.kernel not in found:
                found[f"{cell.kernel} batch {cell.batch}"] = cell.message or cell.status
        return found

    @classmethod
    def read(cls, path: Path) -> "MicroResults":
        """Raises DamagedRecord if the file holds anything else."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, fault["loc"][:4]))
            raise DamagedRecord(f"{path}: not the results of kernels ({place}: {fault['msg']})") from None
        except OSError as error:
            raise DamagedRecord(f"{path}: cannot be read ({error.strerror})") from None
