"""Events to columns: rows are turned into arrays block by block, words into numbers at once."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Words(dict[str, int]):
    """word -> its place, in order of appearance; a word that is asked for is added."""

    def __missing__(self, word: str) -> int:
        self[word] = place = len(self)
        return place


class Columns:
    """One table in the making: `add` blocks, then `table`."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._parts: dict[str, list[NDArray]] = {name: [] for name in schema.names}
        self._words = {f.name: Words() for f in schema if pa.types.is_dictionary(f.type)}

    def __len__(self) -> int:
        return sum(map(len, self._parts["start_ns"]))

    def add(self, length: int, **columns: Any) -> None:
        """Append `length` rows: every column's values, or the one value of all of them."""
        assert columns.keys() == self._parts.keys(), columns.keys() ^ self._parts.keys()
        for name, values in columns.items():
            if (words := self._words.get(name)) is None:
                kind = self.schema.field(name).type.to_pandas_dtype()
                whole = np.full(length, values) if np.isscalar(values) else np.asarray(values)
                self._parts[name].append(_fitted(whole, kind))
            elif isinstance(values, str):
                self._parts[name].append(np.full(length, words[values], np.int32))
            else:
                if set(map(type, values)) != {str}:
                    values = [_word(value) for value in values]
                places = map(words.__getitem__, values)
                self._parts[name].append(np.fromiter(places, np.int32, len(values)))

    def table(self, base_ns: int) -> pa.Table:
        """All rows by their start, with the schema; `base_ns` is added to columns of times.

        Once only: the parts go as the table comes.
        """
        columns = [self._column(field, base_ns) for field in self.schema]
        starts = columns[self.schema.get_field_index("start_ns")].to_numpy()
        return pa.table(columns, schema=self.schema).take(np.argsort(starts, kind="stable"))

    def _column(self, field: pa.Field, base_ns: int) -> pa.Array:
        parts = self._parts.pop(field.name)
        if (words := self._words.get(field.name)) is None:
            kind = field.type.to_pandas_dtype()
            values = np.concatenate(parts) if parts else np.empty(0, kind)
            if field.name.endswith("_ns"):
                values += base_ns
            return pa.array(values, field.type)
        places = np.concatenate(parts) if parts else np.empty(0, np.int32)
        return pa.DictionaryArray.from_arrays(places, pa.array(list(words), pa.string()))


def _fitted(values: NDArray, kind: type) -> NDArray:
    if kind is np.int32:
        values = np.where(np.abs(values) < 2**31, values, -1)
    return values.astype(kind, copy=False)


def _word(value: Any) -> str:
    return value if value.__class__ is str else ("" if value is None else str(value))


def numbers(values: list[Any]) -> NDArray[np.int64]:
    """int64 of numbers, or of texts that are numbers; -1 for all else."""
    try:
        return np.array(array("q", values))  # takes integers alone
    except (TypeError, OverflowError):
        return np.fromiter(map(_number, values), np.int64, len(values))


def _number(value: Any) -> int:
    try:
        found = int(value)
    except (TypeError, ValueError, OverflowError):
        return -1
    return found if -(2**63) <= found < 2**63 else -1
