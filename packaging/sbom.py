#!/usr/bin/env python3
"""sbom.py DEB - a bill of materials (CycloneDX 1.5) for a walsup package: what it depends on, in the versions that are
installed where it was built, and what is linked into it."""
import hashlib
import json
import re
import subprocess
import sys
import uuid

# parts of these are in the programs; everything else is a shared library
LINKED_IN = ["libs3-dev"]


def field(deb, name):
    return subprocess.run(["dpkg-deb", "-f", deb, name], check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def installed(package, architecture):
    """the version, of that architecture if it is there, else of this machine's"""
    for name in (f"{package}:{architecture}", package):
        p = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", name], text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL)
        if p.returncode == 0 and p.stdout:
            return p.stdout
    sys.exit(f"sbom: {package} is not installed here: run it where the package was built")


def component(package, architecture, linked_in):
    version = installed(package, architecture)
    purl = f"pkg:deb/debian/{package}@{version}?arch={architecture}".replace("+", "%2B")
    return {"type": "library", "bom-ref": purl, "name": package, "version": version, "purl": purl, "scope": "required",
            "properties": [{"name": "walsup:linked", "value": "statically" if linked_in else "dynamically"}]}


def main(deb):
    version, architecture = field(deb, "Version"), field(deb, "Architecture")
    with open(deb, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    wanted = sorted({re.split(r"[ (|:]", d.strip())[0] for d in field(deb, "Depends").split(",")})
    shared = [p for p in wanted if p.startswith("lib")]
    parts = [component(p, architecture, False) for p in shared] + [component(p, architecture, True) for p in LINKED_IN]
    ref = f"pkg:deb/walsup@{version}?arch={architecture}"
    json.dump({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        # the same package has the same number
        "serialNumber": "urn:uuid:" + str(uuid.uuid5(uuid.NAMESPACE_URL, digest)),
        "metadata": {"component": {
            "type": "application", "bom-ref": ref, "name": "walsup", "version": version, "purl": ref,
            "licenses": [{"license": {"id": "GPL-3.0-or-later"}}],
            "hashes": [{"alg": "SHA-256", "content": digest}]}},
        "components": parts,
        "dependencies": [{"ref": ref, "dependsOn": [p["bom-ref"] for p in parts]}],
    }, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
