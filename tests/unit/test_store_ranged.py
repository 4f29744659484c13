"""Files read by ranges: right bytes, each fetched once, bounded memory; and how large objects are cut."""

import io
import itertools
import random
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncbatch.errors import ConfigError
from asyncbatch.source.paths import matches
from asyncbatch.store.ranged import Range, RangedFile, chunk_segments, plain_segments
from asyncbatch.store.uri import parse_uri, shown

MIB = 2**20


class Counted:
    """A file somewhere else."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[Range] = []
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> bytes:
        with self._lock:
            self.asked.append(Range(start, stop))
        return self.data[start:stop]

    @property
    def bytes(self) -> int:
        return sum(each.stop - each.start for each in self.asked)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(0, 5000), step=st.integers(1, 900))
def test_any_way_of_reading_gives_the_bytes(seed: int, size: int, step: int) -> None:
    rng = random.Random(seed)
    data = rng.randbytes(size)
    tail = data[size - rng.randint(0, size) :] if rng.random() < 0.5 else b""
    segments = [each for each in plain_segments(size, step=step) if rng.random() < 0.8]
    rng.shuffle(segments)
    other = io.BytesIO(data)
    with RangedFile(Counted(data).read, size, segments=segments, known=tail, held=2 * step) as file:
        for _ in range(30):
            if rng.random() < 0.5:
                place = rng.randint(0, size + 5)
                assert file.seek(place) == other.seek(place)
            wanted = rng.choice([-1, 0, 1, rng.randint(0, 2000)])
            assert file.read(wanted) == other.read(wanted)


def test_a_sequential_reader_fetches_every_byte_once_and_ahead() -> None:
    source = Counted(bytes(96 * MIB))
    waiting = threading.Event()
    started = threading.Barrier(3)

    def read(start: int, stop: int) -> bytes:
        if not waiting.is_set() and start < 24 * MIB:
            started.wait(5)  # three requests are under way at once, before the first byte is here
        return source.read(start, stop)

    with RangedFile(read, 96 * MIB, segments=plain_segments(96 * MIB)) as file:
        assert len(file.read(1)) == 1
        waiting.set()
        most = 0
        while file.read(MIB):
            most = max(most, sum(len(each.result()) for each in file._fetched.values() if each.done()))
    assert source.bytes == 96 * MIB
    assert most <= 64 * MIB


@pytest.mark.parametrize(("rows", "group"), [(60_000, 60_000), (60_000, 4_000)])
@pytest.mark.parametrize("columns", [None, ["c0", "c7"]])
def test_column_chunks_are_fetched_once_in_the_order_of_their_use(
    rows: int, group: int, columns: list[str] | None
) -> None:
    rng = random.Random(1)
    table = pa.table({f"c{n}": [rng.random() for _ in range(rows)] for n in range(8)})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=group, compression="none", data_page_size=8192)
    source = Counted(sink.getvalue())
    file = RangedFile(source.read, len(source.data), known=source.data[-65536:])
    reader = pq.ParquetFile(pa.PythonFile(file, mode="r"), buffer_size=65536, pre_buffer=False)
    names = columns or table.column_names
    groups = []
    for number in range(reader.metadata.num_row_groups):
        chunks = (reader.metadata.row_group(number).column(place) for place in range(8))
        groups.append(
            [
                Range(
                    min(filter(None, (each.dictionary_page_offset, each.data_page_offset))),
                    min(filter(None, (each.dictionary_page_offset, each.data_page_offset)))
                    + each.total_compressed_size,
                )
                for each in chunks
                if each.path_in_schema in names
            ]
        )
    held = 4 * MIB
    file.plan(chunk_segments(groups, held=held, most=256 * 1024))
    before = source.bytes
    read = sum(
        batch.num_rows for batch in reader.iter_batches(columns=names, batch_size=2000, use_threads=False)
    )
    assert read == rows
    wanted = sum(each.stop - each.start for chunks in groups for each in chunks)
    assert source.bytes - before <= 1.05 * wanted, "something was fetched twice"
    assert len(source.asked) <= 3 * (wanted // (128 * 1024) + 8)
    reader.close()
    file.close()


@given(
    sizes=st.lists(st.lists(st.integers(1, 3 * MIB), min_size=1, max_size=6), min_size=1, max_size=4),
    gap=st.integers(0, MIB),
)
def test_segments_cover_the_chunks_and_nothing_twice(sizes: list[list[int]], gap: int) -> None:
    at = 0
    groups: list[list[Range]] = []
    for chunks in sizes:
        groups.append([])
        for size in chunks:
            groups[-1].append(Range(at, at + size))
            at += size + gap
    segments = chunk_segments(groups, held=4 * MIB, most=MIB)
    ordered = sorted(segments, key=lambda each: each.start)
    assert all(one.stop <= other.start for one, other in itertools.pairwise(ordered))
    assert all(each.stop - each.start <= MIB for each in segments)
    for chunk in (each for group in groups for each in group):
        covered = sum(max(0, min(each.stop, chunk.stop) - max(each.start, chunk.start)) for each in segments)
        assert covered == chunk.stop - chunk.start


def test_a_short_answer_is_no_data() -> None:
    with (
        RangedFile(lambda start, stop: b"x", 100, segments=plain_segments(100)) as file,
        pytest.raises(OSError, match="100 bytes were asked for and 1 came"),
    ):
        file.read(10)


@pytest.mark.parametrize(
    ("spec", "place", "key"),
    [
        ("s3://bucket/a/b.csv", "s3://bucket", "a/b.csv"),
        ("S3A://bucket//a/./b/", "s3://bucket", "a/b/"),
        ("gs://bucket", "gs://bucket", ""),
        ("gcs://bucket/x y%20", "gs://bucket", "x y%20"),
        ("az://box/k", "az://box", "k"),
        ("abfss://box@name.dfs.core.windows.net/k/", "az://box@name", "k/"),
    ],
)
def test_uris(spec: str, place: str, key: str) -> None:
    uri = parse_uri(spec)
    assert uri is not None
    assert (uri.place, uri.key) == (place, key)


@pytest.mark.parametrize("spec", ["s3:///key", "gs://", "s3://bucket@account/key"])
def test_uris_that_name_no_bucket(spec: str) -> None:
    with pytest.raises(ConfigError, match="names"):
        parse_uri(spec)


@pytest.mark.parametrize(
    "spec", ["out/", "./s3:/x", "file:///x", "https://host/x", "-", "postgresql://host/x"]
)
def test_what_is_no_bucket(spec: str) -> None:
    assert parse_uri(spec) is None


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ("https://host/in.csv?X-Amz-Date=1&X-Amz-Signature=abc", "https://host/in.csv"),
        ("https://user:word@host/in.csv#x", "https://host/in.csv"),
        ("https://host/in.csv?version=3", "https://host/in.csv?version=3"),
        ("s3://bucket/in.csv?token=1", "s3://bucket/in.csv?token=1"),
        ("in.csv", "in.csv"),
    ],
)
def test_secrets_are_left_out_of_what_is_kept(spec: str, kept: str) -> None:
    assert shown(spec) == kept


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("a/b.csv", "a/*.csv", True),
        ("a/b/c.csv", "a/*.csv", False),
        ("a/b/c.csv", "**/*.csv", True),
        ("c.csv", "**/*.csv", True),
        ("a/b", "a/**", True),
        ("a", "a/b", False),
        ("2024-x", "202[34]-?", True),
    ],
)
def test_globs(path: str, pattern: str, expected: bool) -> None:
    assert matches(path.split("/"), pattern.split("/")) is expected
