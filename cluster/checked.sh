#!/bin/bash
# A sweep on the cluster of which this machine is the head, begun or gone on with: checked.sh FLAGS
#
# FLAGS are those of tune_search.py, with --name. What can be wrong with them is found here first, on
# the head alone, before a node with a GPU is asked for.
set -euo pipefail
cd "$(dirname "$0")/.."
python tune_search.py "$@" --or-resume --address auto --dry-run
exec python tune_search.py "$@" --or-resume --address auto
