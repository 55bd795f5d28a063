"""The audit of what is installed along: within its ranges, permissively licensed, all of it needed.

docs/SECURITY.md says what this is in the place of, and why.
"""

from __future__ import annotations

import ast
import configparser
import re
from functools import cache
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path
from sys import stdlib_module_names

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
#: SPDX names, of licences that ask for no more than to be named.
PERMISSIVE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "PSF-2.0", "ZPL-2.1"}
#: The same as the classifiers, and older metadata, have them.
PERMISSIVE_NAMES = {
    "Apache License, Version 2.0",
    "Apache Software License",
    "BSD License",
    "MIT",
    "MIT License",
    "The MIT License (MIT)",
}
#: A library used as it is, as a package of its own that everybody may replace, obliges nobody who runs it either.
LESSER = {"pygal": {"GNU Lesser General Public License v3 or later (LGPLv3+)"}}


@cache
def required(extra: str = "") -> list[Requirement]:
    """Return what setup.cfg requires, for running or for an extra."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    text = config["options.extras_require"][extra] if extra else config["options"]["install_requires"]
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def closure(requirements: list[Requirement]) -> dict[str, Distribution]:
    """Return what is installed for requirements, and for what that requires; fail where one is missing or off range."""
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    waiting = list(requirements)
    while waiting:
        wanted = waiting.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        installed = distribution(wanted.name)
        assert wanted.specifier.contains(installed.version, prereleases=True), f"{wanted}: {installed.version}"
        found[canonicalize_name(wanted.name)] = installed
        for line in installed.requires or []:
            needed = Requirement(line)
            extras = ("", *wanted.extras)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return found


def licences(installed: Distribution) -> set[str]:
    """Return the names of a distribution's licences, from the first place that has any."""
    metadata = installed.metadata
    if "License-Expression" in metadata:
        return set(re.split(r" AND | OR |[() ]+", metadata["License-Expression"])) - {""}
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")]
    if classifiers:
        return {line.rpartition(" :: ")[2] for line in classifiers}
    if "License" in metadata:
        return {metadata["License"]}
    files = [path for path in installed.files or [] if re.match(r"(?i)licen[cs]e|copying", path.name)]
    return {path.read_text().strip().partition("\n")[0] for path in files}


def imported(folder: str) -> set[str]:
    """Return the distributions that the code in a folder imports from, ours and Python left out."""
    modules: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module)
            elif isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
    found: set[str] = set()
    for module in modules:
        top, *rest = module.split(".")
        if top not in stdlib_module_names:
            providers = {canonicalize_name(name) for name in packages_distributions()[top]} - {"orchestratord"}
            if len(providers) > 1:  # a namespace; each part of it is named after its module
                providers &= {canonicalize_name(f"{top}.{rest[0]}")}
            found |= providers
    return found


def chosen_by_extra() -> set[str]:
    """Return what the extras in brackets bring, `Twisted[tls]`'s pyOpenSSL say: whoever names the extra means them."""
    found: set[str] = set()
    for wanted in required():
        for line in distribution(wanted.name).requires or []:
            needed = Requirement(line)
            marker = needed.marker
            if marker and not marker.evaluate({"extra": ""}):
                found |= {
                    canonicalize_name(needed.name) for extra in wanted.extras if marker.evaluate({"extra": extra})
                }
    return found


@pytest.mark.parametrize("extra", ["", "test"])
def test_all_that_is_required_is_there_and_within_its_range(extra: str) -> None:
    """What setup.cfg names, and what those require: one version of each fits them all."""
    assert len(closure([*required(), *required(extra)])) > 10


@pytest.mark.parametrize("extra", ["", "test", "fuzz", "bench"])
def test_every_range_has_two_ends(extra: str) -> None:
    """No release that nobody has tried gets in by itself."""
    for requirement in required(extra):
        assert {spec.operator for spec in requirement.specifier} == {">=", "<"}, requirement


def test_licences_are_permissive() -> None:
    """Whoever runs this owes nothing but a mention."""
    for name, installed in closure(required()).items():
        found = licences(installed)
        assert found, name
        assert found <= PERMISSIVE | PERMISSIVE_NAMES or found == LESSER.get(name), name


def test_what_is_imported_is_required_and_the_other_way_round() -> None:
    """No dependency by way of another one, which may drop it; none that is not needed."""
    named = {canonicalize_name(requirement.name) for requirement in required()}
    assert named <= imported("orchestratord") <= named | chosen_by_extra()
