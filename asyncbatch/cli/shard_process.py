"""One process of `--processes`: a shard of a job, told what to do and telling what happens through pipes.

Standard input gives the job, and then nothing more: its end is the end of the parent, and then this process leaves at once,
as after a second signal. Events go to what was standard output; whatever a model function prints goes to the error stream.
"""

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from typing import BinaryIO

from asyncbatch.cli.processes import Ended, Task
from asyncbatch.errors import AsyncBatchError
from asyncbatch.observe.joined import Measured

LEFT_ALONE = 75


class Channel:
    """A `RunHook` that passes every event on. Used from one thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def __call__(self, event: object, /) -> None:
        pickle.dump(event, self._stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._stream.flush()


def main() -> int:
    """Do what standard input says; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the run handles it: no traceback
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    task: Task = pickle.load(sys.stdin.buffer)  # noqa: S301  # from the parent
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    channel = Channel(stream)
    ended = _run(task, channel)
    channel(ended)
    return ended.exit_code


def _run(task: Task, channel: Channel) -> Ended:
    from asyncbatch.pipeline.api import run_to_end
    from asyncbatch.pipeline.job import Job

    job = Job(task.config, task.source, sink=task.sink, hooks=[channel])
    began_s = max(0.0, time.time() - task.began)
    error: AsyncBatchError | None = None
    try:
        report = run_to_end(job, task.sink)
    except AsyncBatchError as raised:
        error, report = raised, job.ended_by(raised)
    except Exception as raised:  # noqa: BLE001  # told in the parent's words
        where = "".join(traceback.format_exception(raised)) if task.config.output.verbose else ""
        return Ended(
            exit_code=1, report=None, measured=None, defect=f"{where}unexpected {type(raised).__name__}"
        )
    metrics = job.tools.metrics
    measured = Measured(
        totals=metrics.totals(), latencies=metrics.latencies, timeline=metrics.timeline(), began_s=began_s
    )
    return Ended(exit_code=report.exit_code, report=report, measured=measured, error=error)


def _leave_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(LEFT_ALONE)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a model function that does not return would hold up the interpreter's end
