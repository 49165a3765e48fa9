"""The GPU that is measured on, and what is known about its ceilings from earlier runs."""

import torch

from ttt_mlflow.measure import ceilings_cache
from ttt_mlflow.measure.ceilings import CardCeilings
from ttt_mlflow.measure.ceilings_cache import Card, CeilingsUnknown
from ttt_mlflow.telemetry.host import device_uuid
from ttt_mlflow.telemetry.nvml import driver_version


def card_of(device: torch.device) -> Card:
    """The card that ``device``, a GPU, is; raise :class:`CeilingsUnknown` where NVML does not name the driver."""
    driver = driver_version()
    if driver is None:
        raise CeilingsUnknown("ceilings are kept by card and driver, and NVML does not tell the driver's version")
    properties = torch.cuda.get_device_properties(device)
    return Card(device_uuid(device), driver, properties.multi_processor_count, properties.name)


def known_ceilings(device: torch.device) -> CardCeilings:
    """The ceilings of ``device`` from an earlier measurement; raise :class:`CeilingsUnknown`."""
    return ceilings_cache.load(card_of(device))


def keep_ceilings(device: torch.device, ceilings: CardCeilings) -> str | None:
    """Keep what was measured for later runs; None, or why it could not be kept, in one line."""
    try:
        ceilings_cache.store(card_of(device), ceilings)
    except CeilingsUnknown as unknown:
        return f"the ceilings are not kept for later runs: {unknown}"
    except OSError as error:
        return f"the ceilings are not kept for later runs: {error}"
    return None
