"""What goes wrong while clients publish, decided by a seed: kills of the server, stops of PostgreSQL, bad networks."""

import random
import threading
import time
from dataclasses import dataclass

from tests.reliability.proxy import Fault, FaultyProxy, Kind, Request
from tests.reliability.server import PostgreSQL, TrackingServer

# of 1000 requests
SHARES: dict[Kind, int] = {"cut": 12, "lost": 12, "unsent": 8, "refused": 8, "login page": 8}


@dataclass(frozen=True)
class Amount:
    """How much trouble. over_uploads: it is spread over the first so many files that the server takes."""

    server_kills: int
    database_stops: int
    delays: int
    delay_s: float
    over_uploads: int


class Trouble:
    """Makes trouble in a thread, from :meth:`__enter__` until all of it is done or the block ends."""

    def __init__(self, amount: Amount, rng: random.Random, server: TrackingServer, database: PostgreSQL) -> None:
        self.server, self.database, self.amount = server, database, amount
        self.kills = self.stops = 0
        self.failure: BaseException | None = None
        events = ["kill"] * amount.server_kills + ["stop"] * amount.database_stops
        self._events = sorted((rng.uniform(0, amount.over_uploads), event) for event in events)
        delayed = sorted(rng.sample(range(amount.over_uploads), amount.delays))
        self._delayed, self._rng, self._connections = delayed, rng, random.Random(rng.random())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._make, daemon=True)
        self.proxy = FaultyProxy(server.port, self._fault)

    def __enter__(self) -> "Trouble":
        self.proxy.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.proxy.__exit__()

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.proxy.faults.items()))
        return (
            f"{self.kills} kills of the server, {self.stops} stops of PostgreSQL; "
            f"{len(self.proxy.requests)} requests, of these {faults or 'none'} by the network"
        )

    def _fault(self, request: Request) -> Fault | None:
        if self._delayed and len(self.proxy.uploads) >= self._delayed[0]:
            self._delayed.pop(0)
            return Fault("delayed", seconds=self.amount.delay_s)
        drawn = self._connections.uniform(0, 1000)
        for kind, share in SHARES.items():
            drawn -= share
            if drawn < 0:
                return Fault(kind, share=self._connections.random())
        return None

    def _make(self) -> None:
        try:
            for after, event in self._events:
                while len(self.proxy.uploads) < after:
                    if self._over.wait(0.005):
                        return
                time.sleep(self._rng.uniform(0, 0.05))  # not at the same place of each request
                if event == "kill":
                    self._kill_the_server()
                else:
                    self._stop_postgresql()
        except BaseException as failure:  # shown by the test, in whose thread it is not raised
            self.failure = failure

    def _kill_the_server(self) -> None:
        self.server.kill()
        self.kills += 1
        time.sleep(self._rng.uniform(0, 1))
        self.server.start_again()

    def _stop_postgresql(self) -> None:
        self.database.stop(self._rng.choice(["immediate", "fast"]))
        self.stops += 1
        time.sleep(self._rng.uniform(0, 2))
        self.database.start()
