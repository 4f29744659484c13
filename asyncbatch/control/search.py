"""Which of start-up and cruise drives the setting, and how one gives way to the other."""

from asyncbatch.control.cruise import Cruise
from asyncbatch.control.operating_point import OperatingPoint
from asyncbatch.control.startup import Phase, Startup
from asyncbatch.model import Sample


class Search:
    """Start-up until it is done, cruise from then on; start-up again where the endpoint shows itself to be another.

    Args:
        point: what both of them set.
        start_rows: size of the first request.
    """

    def __init__(self, point: OperatingPoint, *, start_rows: int, now_s: float) -> None:
        self._point = point
        self._start_rows = start_rows
        self.startup = Startup(point, start_rows=start_rows, now_s=now_s)
        self.cruise = Cruise(point, now_s=now_s)
        self.cruising = False

    def started_with(self, sample: Sample, seconds: float, begun_with: int, *, paced_rate: float) -> None:
        """A chunk was answered at start-up, sent with `begun_with` in flight."""
        self.startup.answered(sample, seconds, begun_with, since_s=self._point.cut_s, paced_rate=paced_rate)
        self.go_on(sample.finished_s)

    def climb(self, now: float) -> None:
        """Cruise wants chunks of twice the size and more: a row climb, or where that is not worth it the trial it proposed."""
        if self.startup.climb_on(now):
            self.cruise.explorer.trial = None
            self.cruising = False
        else:
            self.cruise.start(now)

    def go_on(self, now: float) -> None:
        """Cruise, if start-up has come to its end."""
        if not self.cruising and self.startup.phase is Phase.DONE:
            self.cruising = True
            self.cruise.begin(now)

    def skip(self, now: float) -> None:
        """A setting is known already."""
        self.startup.skip()
        self.go_on(now)

    def stop_growing(self, now: float) -> None:
        """The requests in flight have met a limit."""
        if self.cruising:
            self.cruise.begin(now)
        else:
            self.startup.stop_growing(now)
            self.go_on(now)

    def paced(self, now: float) -> None:
        """Requests a second have met a limit, and are spaced from now on."""
        if self.cruising:
            self.cruise.begin(now)
        else:
            self.startup.paced(now)
            self.go_on(now)

    def grow_again(self, now: float) -> None:
        """Raise the requests in flight anew, from where they are."""
        self.cruising = False
        self.startup.again(now)

    def start_anew(self, now: float) -> None:
        """As if nothing were known."""
        self.cruise.explorer.reset()
        self.startup = Startup(self._point, start_rows=self._start_rows, now_s=now)
        self.cruising = False
