"""How long the endpoint works on a chunk: t(n) = a + b·n.

The affine model of batched inference: a fixed cost for each call (dispatch, kernel launch, decoding of the envelope) and a cost
a row. Apache Beam fits the same line to choose batch sizes (`apache_beam/transforms/util.py`, `_BatchSizeEstimator`), Clipper
(Crankshaw et al., NSDI 2017, section 4.3) describes it for serving systems. Errors of latencies are relative, not absolute,
so the squares of relative residuals are minimised; sizes are binned, so that a thousand samples cost no more than ten.
"""

import math

_BESIDE = 1.0
"""Weight left to what was seen of a size before, once two sizes were compared."""


class ServiceFit:
    """Weighted least squares over bins of chunk size, old samples fading."""

    _FULL = 24.0

    def __init__(self) -> None:
        self._bins: dict[int, list[float]] = {}  # half octave -> [weight, sum of rows, sum of seconds]
        self._line: tuple[float, float] | None = None
        self._focus = 0.0

    def focus(self, rows: float) -> None:
        """Sizes near `rows` matter most from now on: padding and knees make the line a local truth."""
        focus = math.log2(max(1.0, rows))
        if focus != self._focus:
            self._focus = focus
            self._line = None

    def add(self, rows: float, seconds: float, *, weight: float = 1.0) -> None:
        """Learn from one answered chunk that did not queue, or from the mean of `weight` of them."""
        each = self._bins.setdefault(round(2 * math.log2(max(1, rows))), [0.0, 0.0, 0.0])
        if each[0] >= self._FULL:
            for position in range(3):
                each[position] /= 2
        each[0] += weight
        each[1] += weight * rows
        each[2] += weight * max(seconds, 1e-6)
        self._line = None

    def scale(self, factor: float) -> None:
        """The endpoint has become faster or slower as a whole: what was seen of all sizes is worth `factor` of its time now."""
        for each in self._bins.values():
            each[2] *= factor
        self._line = None

    def compared(self, rows: float, other: float, ratio: float, *, weight: float) -> None:
        """Chunks of `other` rows took `ratio` times as long as those of `rows`, under the same load one after the other.

        What single chunks took at other times (a cold start, a queue) counts less than it.
        """
        base_s = self.seconds(rows)
        for each in self._bins.values():
            if each[0] > _BESIDE:
                each[:] = [total * _BESIDE / each[0] for total in each]
        self.add(rows, base_s, weight=weight)
        self.add(other, base_s * ratio, weight=weight)

    def restore(self, *, call_s: float, row_s: float, rows: int) -> None:
        """Begin with the line that an earlier run found around `rows`."""
        for size in (max(1, rows // 8), rows):
            self.add(size, call_s + row_s * size, weight=4.0)

    @property
    def sizes(self) -> int:
        """How many different sizes were seen (half an octave apart)."""
        return len(self._bins)

    @property
    def line(self) -> tuple[float, float]:
        """`(a, b)`: seconds a call and seconds a row, both >= 0. `(0, 0)` before the first sample."""
        if self._line is None:
            self._line = self._solve()
        return self._line

    def seconds(self, rows: float) -> float:
        """Predicted time of a chunk of `rows` rows without queueing."""
        a, b = self.line
        return a + b * rows

    def rows_in(self, seconds: float) -> float:
        """Rows of a chunk that takes `seconds`; below 1 where the call alone takes longer."""
        a, b = self.line
        return (seconds - a) / max(b, 1e-12)

    def overhead(self, rows: float) -> float:
        """Share of a chunk's time that is the fixed cost of the call, 0 to 1; 1 while only one size is known."""
        if len(self._bins) < 2:
            return 1.0
        a, b = self.line
        total = a + b * rows
        return a / total if total > 0 else 1.0

    def gain(self, rows: float, other: float) -> float:
        """By how much chunks of `other` rows are faster than chunks of `rows`, as a difference of logarithms."""
        if len(self._bins) < 2:
            return math.log(other / rows)
        return math.log(other * self.seconds(rows) / (rows * self.seconds(other)))

    def knee(self) -> float:
        """Chunk size from where rows become dearer again; infinity while none was seen.

        In the affine model rows only become cheaper with size. Where a larger size was clearly slower by the row (memory
        bandwidth, padding, quadratic attention), sizes stay below the middle between it and the best.
        """
        speeds = self.speeds()
        if len(speeds) < 2:
            return math.inf
        best_rows, best, _ = max(speeds, key=lambda each: each[1] * min(1.0, 0.7 + 0.1 * each[2]))
        for rows, speed, weight in speeds:
            if rows > best_rows and speed < best * (0.85 if weight > 1.5 else 0.7):
                return math.sqrt(rows * best_rows)
        return math.inf

    def speeds(self) -> list[tuple[float, float, float]]:
        """`(mean rows, rows/s of one slot, weight)` of each size seen, smallest first."""
        return [(n / k, n / t, k) for _, (k, n, t) in sorted(self._bins.items())]

    def _solve(self) -> tuple[float, float]:
        points = []
        for k, n, t in self._bins.values():
            octaves = math.log2(n / k) - self._focus
            points.append((n / k, t / k, min(k, 6.0) / (t / k) ** 2 / (1 + (octaves / 3) ** 2)))
        if not points:
            return 0.0, 0.0
        if len(points) == 1:
            n, t, _ = points[0]
            return 0.0, t / n
        total = sum(w for _, _, w in points)
        mean_n = sum(w * n for n, _, w in points) / total
        mean_t = sum(w * t for _, t, w in points) / total
        spread = sum(w * (n - mean_n) ** 2 for n, _, w in points)
        b = sum(w * (n - mean_n) * (t - mean_t) for n, t, w in points) / spread if spread > 0 else 0.0
        if b <= 0:
            # no slope to be seen: rows cost at most a twentieth of the longest chunk
            b = 0.05 * mean_t / max(n for n, _, _ in points)
            return 0.95 * mean_t, b
        a = mean_t - b * mean_n
        if a < 0:
            return 0.0, sum(w * n * t for n, t, w in points) / sum(w * n * n for n, _, w in points)
        return a, b
