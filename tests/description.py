"""The API's description, read for tests: its operations, their examples, and what an answer must look like."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from openapi_schema_validator import OAS31Validator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATH = Path(__file__).parent.parent / "etc" / "openapi.yaml"


@cache
def description() -> dict[str, Any]:
    """Return the whole description."""
    loaded: dict[str, Any] = yaml.safe_load(PATH.read_text())
    return loaded


def resolved(node: Any) -> Any:
    """Return what a `$ref` within the description means, or the node itself."""
    while isinstance(node, dict) and "$ref" in node:
        found: Any = description()
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step.replace("~1", "/")]
        node = found
    return node


@dataclass(frozen=True)
class Operation:
    """A method of a path."""

    path: str
    method: str
    told: dict[str, Any]

    @property
    def name(self) -> str:
        """Its operationId."""
        return str(self.told["operationId"])

    def parameters(self) -> list[dict[str, Any]]:
        """Return those of the path and its own."""
        shared = description()["paths"][self.path].get("parameters", [])
        return [resolved(one) for one in (*shared, *self.told.get("parameters", []))]

    def response(self, status: int) -> dict[str, Any]:
        """Return what is described of a status; KeyError if nothing is."""
        found: dict[str, Any] = resolved(self.told["responses"][str(status)])
        return found

    def requests(self) -> Iterator[Request]:
        """Yield a request for every name under which there are examples; without any, one of what is required."""
        body = self.told.get("requestBody", {}).get("content", {})
        media_types = [(media_type, content) for media_type, content in body.items()]
        parts = [*self.parameters(), *(content for _, content in media_types)]
        for name in dict.fromkeys(name for part in parts for name in part.get("examples", {})) or [""]:
            request = Request(self, name, {}, {})
            for parameter in self.parameters():
                value = _example(parameter, name)
                if value is not None:
                    where = request.in_path if parameter["in"] == "path" else request.query
                    where[parameter["name"]] = value
            for media_type, content in media_types:
                request.media_type, request.body = media_type, _example(content, name)
            yield request


@dataclass
class Request:
    """A request that an operation's examples make up; `example` is their name."""

    operation: Operation
    example: str
    in_path: dict[str, Any]
    query: dict[str, Any]
    media_type: str | None = None
    body: Any = None

    @property
    def path(self) -> str:
        """The path with its parameters filled in."""
        return self.operation.path.format_map(self.in_path)


def operations() -> Iterator[Operation]:
    """Yield every operation."""
    for path, item in description()["paths"].items():
        for method, told in item.items():
            if method != "parameters":
                yield Operation(path, method.upper(), told)


def operation(name: str) -> Operation:
    """Return the operation of that operationId."""
    (found,) = (one for one in operations() if one.name == name)
    return found


def check(schema: Mapping[str, Any], value: Any) -> None:
    """Fail unless a JSON value is what a schema of the description says."""
    errors = [
        f"{error.json_path}: {error.message}"
        for error in OAS31Validator({**schema, "components": description()["components"]}).iter_errors(value)
    ]
    assert errors == [], value


def _example(part: Mapping[str, Any], name: str) -> Any:
    if name in part.get("examples", {}):
        return part["examples"][name]["value"]
    return part.get("example")
