"""The bill of materials of an image: `python image/sbom.py FILES NAME VERSION OUTPUT`, CycloneDX 1.6 in JSON.

It is read from the image's files: every Python distribution, every Debian package. The same image gives the same bill,
but for the time and the serial number.
"""

from __future__ import annotations

import re
import sys
from email.parser import Parser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

if TYPE_CHECKING:
    from collections.abc import Iterator


def python_component(installed: Distribution) -> Component:
    """Return a Python distribution's entry, named as the index names it."""
    metadata = installed.metadata
    name = re.sub(r"[-_.]+", "-", installed.name).lower()
    named = [metadata[field] for field in ("License-Expression", "License") if field in metadata]
    # Some have the whole text there.
    licence = next((text for text in named if len(text) < 100 and "\n" not in text), None)
    return Component(
        type=ComponentType.LIBRARY,
        name=installed.name,
        version=installed.version,
        licenses=[LicenseFactory().make_from_string(licence)] if licence else (),
        purl=PackageURL("pypi", name=name, version=installed.version),
        bom_ref=f"pypi:{name}",
    )


def python_components(files: Path) -> Iterator[Component]:
    """Yield the Python distributions of every environment in an image's files."""
    folders = sorted({path.parent for path in files.glob("**/*.dist-info") if path.is_dir()})
    for installed in distributions(path=[str(folder) for folder in folders]):
        yield python_component(installed)


def debian_components(files: Path) -> Iterator[Component]:
    """Yield the Debian packages that are installed in an image's files."""
    release = dict(
        line.split("=", 1) for line in (files / "etc/os-release").read_text().splitlines() if line.count("=") == 1
    )
    distribution = f"{release['ID']}-{release.get('VERSION_ID', '')}".replace('"', "")
    for entry in (files / "var/lib/dpkg/status").read_text().split("\n\n"):
        package = Parser().parsestr(entry)
        if package["Status"] == "install ok installed":
            qualifiers = {"arch": package["Architecture"], "distro": distribution}
            yield Component(
                type=ComponentType.LIBRARY,
                name=package["Package"],
                version=package["Version"],
                description=package["Description"].partition("\n")[0],
                purl=PackageURL("deb", "debian", package["Package"], package["Version"], qualifiers),
                bom_ref=f"deb:{package['Package']}:{package['Architecture']}",
            )


def bill(files: Path, name: str, version: str) -> str:
    """Return the bill of the image whose files are in a folder; it is valid, or ValueError is raised."""
    bom = Bom()
    bom.metadata.component = Component(type=ComponentType.CONTAINER, name=name, version=version, bom_ref=name)
    components = [*python_components(files), *debian_components(files)]
    bom.components.update(components)
    bom.register_dependency(bom.metadata.component, components)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong:
        raise ValueError(str(wrong))
    return text


if __name__ == "__main__":
    folder, name, version, output = sys.argv[1:]
    Path(output).write_text(bill(Path(folder), name, version) + "\n")
