"""The time of samples and sections: the host's time when sampling began, and steady since.

A host's clock is set while a run goes on: by NTP, by an administrator, after a virtual machine was paused. A section
would then be longer or shorter than it was, and samples would fall out of it.
"""

import time


class SteadyClock:
    """Nanoseconds since 1970: those of the host's clock (time.time_ns) when this object was made, and steady since."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_ns(self) -> int:
        return time.monotonic_ns() + self._offset_ns

    def of_host_ns(self, host_ns: int) -> int:
        """The time on this clock of what the host's clock, as it goes now, puts at ``host_ns``."""
        return host_ns + self.now_ns() - time.time_ns()
