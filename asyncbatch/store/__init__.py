"""One small interface for local disk and object stores: list, read, create-if-absent, replace, delete."""

from asyncbatch.store.base import Entry, Store
from asyncbatch.store.local import LocalStore

__all__ = ["Entry", "LocalStore", "Store"]
