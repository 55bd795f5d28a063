"""A store, as the node directory asks it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from orchestratord.promql.client import Answer
from tests.fakes import NOW

if TYPE_CHECKING:
    from orchestratord.promql.params import Query

JSON = b"application/json"


class FakeStore:
    """A store of the latest values, by node and name, that answers the two kinds of query that a fleet asks."""

    def __init__(self, **nodes: dict[str, float]) -> None:
        self.nodes = nodes
        self.asked: list[Query] = []
        self.instead: Answer | Exception | Deferred[Answer] | None = None

    def at_once(self, query: Query) -> Answer | None:
        """Return nothing."""

    async def fetch(self, query: Query) -> Answer:
        """Answer by the names and the ids in the query."""
        self.asked.append(query)
        if isinstance(self.instead, Exception):
            raise self.instead
        if isinstance(self.instead, Deferred):
            return await self.instead
        if self.instead is not None:
            return self.instead
        promql = dict(query.params)["query"]
        one = re.match(r"max by \(node_id\) \((\w+)\{", promql)
        below = re.search(r" < ([0-9.]+)$", promql)
        ids = re.search(r'node_id=~"([^"]*)"', promql)
        result = [
            {"metric": {"node_id": node_id, **({} if one else {"__name__": name})}, "value": [NOW, repr(value)]}
            for node_id, values in self.nodes.items()
            if ids is None or re.fullmatch(ids[1], node_id)
            for name, value in values.items()
            if one is None or name == one[1]
            if below is None or value < float(below[1])
        ]
        envelope = {"status": "success", "data": {"resultType": "vector", "result": result}}
        return Answer(200, JSON, json.dumps(envelope, separators=(",", ":")).encode())

    @property
    def queries(self) -> list[str]:
        """The PromQL that was asked."""
        return [dict(query.params)["query"] for query in self.asked]
