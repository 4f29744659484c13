"""Parts and their commit, the plan they follow, and what is published from them."""

from asyncbatch.sink.layout import SinkLocation, locate
from asyncbatch.sink.manifest import Manifest, MissingRange, tiling
from asyncbatch.sink.output import Output, open_sink
from asyncbatch.sink.parts import PartInfo, PartsSink
from asyncbatch.sink.plan import Difference, Plan, load_plan, plan_differences
from asyncbatch.sink.stream import OrderedBlocks, ReaderGoneError, StreamSink, TextWriter

__all__ = [
    "Difference",
    "Manifest",
    "MissingRange",
    "OrderedBlocks",
    "Output",
    "PartInfo",
    "PartsSink",
    "Plan",
    "ReaderGoneError",
    "SinkLocation",
    "StreamSink",
    "TextWriter",
    "load_plan",
    "locate",
    "open_sink",
    "plan_differences",
    "tiling",
]
