"""Request bodies and reply layouts: rows to bytes, and bytes to predictions."""

from asyncbatch.codec.assemble import assemble_values, null_values
from asyncbatch.codec.decoder import LayoutDecoder, make_decoder
from asyncbatch.codec.encoder import make_encoder
from asyncbatch.codec.infer import check_reply, infer_layout
from asyncbatch.codec.layout import LayoutField, ReplyLayout

__all__ = [
    "LayoutDecoder",
    "LayoutField",
    "ReplyLayout",
    "assemble_values",
    "check_reply",
    "infer_layout",
    "make_decoder",
    "make_encoder",
    "null_values",
]
