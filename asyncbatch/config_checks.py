"""Options that make no sense together."""

from typing import TYPE_CHECKING

from asyncbatch.errors import ConfigError

if TYPE_CHECKING:
    from asyncbatch.config import RunConfig


def check_together(config: "RunConfig") -> None:
    """Refuse options that each make sense, and together do not.

    Raises:
        ConfigError: names them.
    """
    request, speed, reply = config.request, config.speed, config.reply
    if request.template is not None and request.body not in ("json", "jsonl", "raw"):
        raise ConfigError(
            f"--template needs --body json, jsonl or raw, not {request.body}", hint="add --body json"
        )
    if reply.argmax and reply.threshold is not None:
        raise ConfigError(
            "--argmax and --threshold exclude each other",
            hint="--argmax is for vectors, --threshold for one number",
        )
    if reply.labels and reply.threshold is not None and len(reply.labels) != 2:
        raise ConfigError(
            f"--threshold has two labels, and --labels names {len(reply.labels)}",
            hint="such as --labels no,yes",
        )
    if speed.max_slowdown <= 1:
        raise ConfigError(f"--max-slowdown is {speed.max_slowdown:g}", hint="give more than 1, such as 1.2")
    if not speed.background and (
        speed.max_slowdown != type(speed)().max_slowdown or speed.max_chunk_time is not None
    ):
        raise ConfigError("--max-slowdown and --max-chunk-time bound a guest", hint="add --background")
    if speed.background and speed.target_latency is not None:
        raise ConfigError(
            "--background and --target-latency exclude each other", hint="--max-slowdown bounds a guest"
        )
    if speed.tuning is not None and speed.no_tuning:
        raise ConfigError("--tuning and --no-tuning exclude each other", hint="give one of them")
    if config.output.partition_by is not None and config.output.file_size is not None:
        raise ConfigError(
            "--partition-by and --file-size exclude each other",
            hint="give one of them; parts are joined in one folder",
        )
    columns = config.output.partition_columns
    if len(set(columns)) < len(columns):
        raise ConfigError("--partition-by names a column twice", hint="name each once")
    if config.output.quiet and config.output.verbose:
        raise ConfigError("--quiet and --verbose exclude each other", hint="give one of them")
    if reply.prediction_name == config.reply.error_name:
        raise ConfigError(
            f"--prediction-name and --error-name are both {reply.error_name!r}",
            hint="give them different names",
        )
    if speed.max_memory < 16 * 10**6:
        raise ConfigError("--max-memory is below 16MB", hint="give at least 16MB")
    if config.failure.if_idle and config.failure.wait:
        raise ConfigError(
            "--if-idle and --wait exclude each other", hint="give up at once, or wait: one of them"
        )
    _check_shards(config)


def _check_shards(config: "RunConfig") -> None:
    """What cannot be divided among shards."""
    speed, shard = config.speed, config.speed.shard
    count = (shard.of if shard is not None else 1) * (speed.processes or 1)
    if count == 1:
        return
    if speed.background:
        raise ConfigError(
            "--background and shards exclude each other: they would take one another for live users",
            hint="leave --shard and --processes out: one process is gentle enough",
        )
    if speed.concurrency is not None and speed.concurrency.high < count:
        raise ConfigError(
            f"--concurrency {speed.concurrency} is less than one request for each of {count} shards",
            hint=f"give {count} or more, or fewer shards",
        )
    if shard is not None and shard.index and config.failure.overwrite:
        raise ConfigError(
            f"--overwrite with --shard {shard} could remove what other shards wrote",
            hint=f"give it to --shard 0/{shard.of} alone, and start the others when that has planned",
        )
