"""Answers from memory beside a real Prometheus that scrapes the same table."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.daemon import Daemon

pytestmark = pytest.mark.integration
