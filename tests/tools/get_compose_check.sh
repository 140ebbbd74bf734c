#!/bin/sh
# get_compose_check.sh - check-jsonschema of PyPI, which carries the schema of the Compose Specification, into
# build/tools/compose. Nothing to do where it is there already; without it tests/container/image.sh says that the example was
# not judged.
set -eu
cd "$(dirname "$0")/../.."
[ -x build/tools/compose/bin/check-jsonschema ] && exit 0
mkdir -p build/tools
{ python3 -m venv build/tools/compose && build/tools/compose/bin/pip -q install check-jsonschema==0.39.0; } >/dev/null 2>&1 ||
	{ rm -rf build/tools/compose; echo "get_compose_check: not to be had for this machine"; exit 0; }
echo "get_compose_check: $(build/tools/compose/bin/check-jsonschema --version)"
