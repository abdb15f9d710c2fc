#!/bin/bash
# Start a sweep, or go on with it where an earlier try began it: for schedulers that try again.
#
#   bash cluster/start_or_resume.sh FOLDER [flags of tune_search.py]
#
# FOLDER is where the flags put the sweep: ROOT/DATASET/NAME.
set -euo pipefail
folder=${1:?the folder of the sweep, ROOT/DATASET/NAME}
shift
cd "$(dirname "$0")/.."
if [[ -e $folder/sweep.json ]]; then
    exec python tune_search.py --resume "$folder" --address auto
fi
exec python tune_search.py "$@" --address auto
