#!/usr/bin/env bash
# Install a distribution (wheel or sdist) into an empty virtual environment, and run it from outside of the repository.
# Usage: smoke_test.sh FILE
# Environment: PYTHON, the interpreter. DEPENDENCIES, the site-packages of an environment whose dependencies are used, so
# that nothing is downloaded but what building an sdist needs.
set -euo pipefail
distribution=$(realpath "$1")
DEPENDENCIES=${DEPENDENCIES:+$(realpath "$DEPENDENCIES")}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet ${DEPENDENCIES:+--no-deps} "$distribution"
if [[ -n "${DEPENDENCIES:-}" ]]; then
    echo "$DEPENDENCIES" > "$(echo venv/lib/python*/site-packages)/dependencies.pth"
fi

venv/bin/hf-datasel --version
venv/bin/hf-datasel list > list.txt
grep -q "  iterit " list.txt
venv/bin/hf-datasel bench --help > /dev/null
venv/bin/python - << 'PYTHON'
import sys
from importlib import metadata, resources

import hf_datasel

folder = resources.files("hf_datasel")
assert str(folder).startswith(f"{sys.prefix}/"), f"{folder} is not the installed package"
assert hf_datasel.__version__ == metadata.version("hf-datasel")
for name in ("py.typed", "cards/templates/report.html.jinja", "evaluation/suites/quick.yaml"):
    assert folder.joinpath(name).is_file(), name
PYTHON

cat > rows.jsonl << 'JSON'
{"instruction": "Is it slow?", "output": "It depends on the load."}
{"instruction": "Is it slow?", "output": "Yes."}
{"instruction": "Is it fast?", "output": "No."}
JSON
venv/bin/hf-datasel select --dataset_name rows.jsonl --selector longest --selection_size 1 --output_dir longest
venv/bin/python -c "
from hf_datasel import Selection
assert Selection.load('longest').indices.tolist() == [0]
"
echo "$(basename "$distribution") works."
