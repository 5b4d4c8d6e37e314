"""YAML or JSON text to plain values; whatever is wrong with the text is a SpecError."""

from __future__ import annotations

from typing import Any

import yaml

from fapool.errors import SpecError

SHOWN = 80
"""Characters of a text that an error shows."""

# What PyYAML lets through for a scalar that is not what its tag or its looks promise.
_STRAY = (ValueError, KeyError, AttributeError, RecursionError)


def load(text: str) -> dict[str, Any]:
    """The mapping that a text holds.

    Raises:
        SpecError: no YAML, no mapping, a key that is no name, or one that is given twice.
    """
    try:
        values = yaml.load(text, _Loader)
    except SpecError:
        raise
    except yaml.YAMLError as error:
        raise SpecError("spec", text[:SHOWN], f"not YAML or JSON: {error}") from None
    except _STRAY as error:
        way_out = f"holds a value that is not what it looks like: {error}; quote or mend it"
        raise SpecError("spec", text[:SHOWN], way_out) from None
    if not isinstance(values, dict):
        is_empty = "is empty; " if values is None else ""
        way_out = f"{is_empty}give a mapping with model, plan and workload"
        raise SpecError("spec", text[:SHOWN], way_out)
    return values


class _Loader(yaml.SafeLoader):
    """Of two equal keys YAML allows neither and PyYAML keeps the last: here they are refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                said = value.value if isinstance(value, yaml.ScalarNode) else f"a {value.id}"
                line = key.start_mark.line + 1
                raise SpecError(key.value, said, f"given twice, again in line {line}; keep one")
            seen.add(key.value)
        made = super().construct_mapping(node, deep=deep)
        if strange := [key for key in made if not isinstance(key, str)]:
            raise SpecError("spec", made, f"{strange[0]!r} is no field; fields have names")
        return made
