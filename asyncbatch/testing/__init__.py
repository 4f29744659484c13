"""testing"""

from asyncbatch.testing.codec import check_codec as check_codec
from asyncbatch.testing.source import check_source as check_source
