"""testing"""

from asyncbatch.testing.codec import check_codec as check_codec
from asyncbatch.testing.sink import check_sink as check_sink
from asyncbatch.testing.source import check_source as check_source
