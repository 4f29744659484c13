"""The short form of benchmarks/control/loopback.py: the simulator and real runs over HTTP agree."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LINE = re.compile(r"(\S+) +(\S+) +simulated (\d\.\d+) .* over HTTP (\d\.\d+)")


@pytest.mark.slow
def test_scores_over_http_are_those_of_the_simulator(tmp_path: Path) -> None:
    """Three endpoints and two static settings: what differs between them differs alike in both worlds."""
    found = subprocess.run(
        [
            sys.executable, str(ROOT / "benchmarks" / "control" / "loopback.py"), "--only", "knee", "memory", "far",
            "--controllers", "100x4", "500x16", "--repeats", "1", "--scale", "0.2", "--oracles", str(tmp_path / "o.json"),
        ],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    scores = [(float(a), float(b)) for _, _, a, b in _LINE.findall(found.stdout)]
    assert len(scores) == 6
    # a loaded machine makes runs of three seconds longer; the settings differ by more
    assert max(abs(simulated - http) for simulated, http in scores) < 0.25, found.stdout
    correlation = re.search(r"rank correlation (-?\d\.\d+)", found.stdout)
    assert correlation is not None
    assert float(correlation[1]) >= 0.7, found.stdout
