"""Write licenses.md and sbom.cdx.json of the CPU set: ``make licenses``.

Names and versions are the pins; licences are read from the installed packages by pip-licenses. The software bill of
materials is CycloneDX, made by its library.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from pins import FOLDER, pins

LONGEST = 60
"""Characters of a licence's name; some packages put the whole text there."""


def licences(python: str) -> dict[str, str]:
    """Return package -> licence of an environment, names in lower case with ``-``."""
    command = [
        str(Path(sys.executable).with_name("pip-licenses")),
        f"--python={python}",
        "--from=mixed",
        "--format=json",
    ]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {_key(one["Name"]): one["License"].splitlines()[0][:LONGEST].strip() for one in found}


def _key(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def main(python: str) -> None:
    """Write both files."""
    by_name = licences(python)
    rows = [
        (name, version, by_name.get(_key(name), "not installed")) for name, version in pins("cpu").items()
    ]
    rows.sort(key=lambda row: row[0].lower())
    lines = [
        "# Licences of the CPU set",
        "",
        "Made by `make licenses` from the pins and the installed packages' own metadata; not legal advice.",
        "",
        "| package | version | licence |",
        "| --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    (FOLDER / "licenses.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    make = LicenseFactory().make_from_string
    bom = Bom(
        components=[
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                purl=PackageURL("pypi", name=_key(name), version=version),
                bom_ref=f"{_key(name)}@{version}",
                licenses=[make(licence)] if licence not in ("UNKNOWN", "not installed") else [],
            )
            for name, version, licence in rows
        ]
    )
    text = json.loads(JsonV1Dot6(bom).output_as_string())
    for made_anew in ("serialNumber", "metadata"):
        text.pop(made_anew, None)
    (FOLDER / "sbom.cdx.json").write_text(json.dumps(text, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
