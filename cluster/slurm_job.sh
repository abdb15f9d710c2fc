#!/bin/bash
# What slurm.sh and slurm_shared.sh have in common: a Ray cluster on the job's nodes, a sweep on it,
# and the end of both. Runs on the job's first node. Every process that it ends, it ends by its id.
set -euo pipefail

: "${SLURM_JOB_ID:?submit cluster/slurm.sh or cluster/slurm_shared.sh with sbatch}"
cd "$SLURM_SUBMIT_DIR"
# shellcheck disable=SC1091
source "${HLVNN_VENV:-.venv}/bin/activate"

export RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}"
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
made_token=
if [[ $RAY_AUTH_MODE == token && -z ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} ]]; then
    # A token for this job alone, in the home folder that all nodes share; only its path is passed
    # on, for anyone on a node can read a command line.
    made_token="$HOME/.ray/hlvnn_job_$SLURM_JOB_ID"
    (umask 077 && mkdir -p "$HOME/.ray" &&
        python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$made_token")
    export RAY_AUTH_TOKEN_PATH="$made_token"
fi

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]}
head_ip=${HLVNN_HEAD_IP:-$(srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
    hostname --ip-address | tr ' ' '\n' | grep -m 1 -E '^[0-9]+(\.[0-9]+){3}$')}
port=${HLVNN_PORT:-6379}
if [[ $HLVNN_NODES == shared ]]; then
    port=$(python cluster/free_port.py "$SLURM_JOB_ID")
fi
export RAY_ADDRESS="$head_ip:$port"

node_pids=()
driver=
on_node() { # NODE ROLE: start Ray on a node, in the background
    srun --nodes=1 --ntasks=1 --nodelist="$1" --overlap --kill-on-bad-exit=0 \
        bash cluster/slurm_node.sh "$2" "$port" &
    node_pids+=($!)
}
finish() {
    local status=$? # of what ended the script
    trap '' TERM INT HUP PIPE
    set +e
    if [[ -n $driver ]] && kill -0 "$driver" 2>/dev/null; then
        kill -TERM "$driver" && wait "$driver" # it writes its tables; --resume goes on
    fi
    for ((i = ${#node_pids[@]} - 1; i >= 0; i--)); do # workers before the head
        kill -TERM "${node_pids[i]}" 2>/dev/null
    done
    wait "${node_pids[@]}" 2>/dev/null
    [[ -z $made_token ]] || rm -f "$made_token"
    exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

on_node "$head" head
python cluster/wait_for_nodes.py 1 --while "${node_pids[0]}"
for node in "${hosts[@]:1}"; do
    on_node "$node" worker
done
python cluster/wait_for_nodes.py "${#hosts[@]}" --while "${node_pids[@]}"

python tune_search.py "$@" --address "$RAY_ADDRESS" &
driver=$!
wait "$driver"
