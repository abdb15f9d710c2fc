#!/bin/bash
# Ray on one node of a SLURM job, until this process is told to end: slurm_node.sh head|worker PORT
# slurm_job.sh starts it by srun, with RAY_ADDRESS, the token's place and HLVNN_NODES in its
# environment.
set -euo pipefail
role=$1 port=$2

# Short, for Ray puts sockets there (107 characters at most), and this user's alone.
folder=$(mktemp -d "${HLVNN_TMP:-/tmp}/hlvnn.$SLURM_JOB_ID.XXXX")
options=(--temp-dir "$folder" --disable-usage-stats --block)
if [[ $role == head ]]; then
    options+=(--head --node-ip-address "${RAY_ADDRESS%:*}" --port "$port")
    if [[ -n ${HLVNN_DASHBOARD:-} ]]; then # HOST:PORT, asked for; 127.0.0.1:8265 is for an SSH tunnel
        options+=(--include-dashboard true)
        options+=(--dashboard-host "${HLVNN_DASHBOARD%:*}" --dashboard-port "${HLVNN_DASHBOARD##*:}")
    else
        options+=(--include-dashboard false)
    fi
else
    options+=(--address "$RAY_ADDRESS")
fi
if [[ $HLVNN_NODES == shared ]]; then
    options+=(--num-cpus "${SLURM_CPUS_PER_TASK:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}")
    # Ports that are not named are any free ones: two jobs cannot clash. A sweep sends next to
    # nothing through Ray's object store, which would take a third of the machine's memory.
    options+=(--object-store-memory "${HLVNN_OBJECT_STORE:-500000000}")
fi

unset RAY_ADDRESS # `ray start --head` refuses to start where it is set
ray start "${options[@]}" &
ray=$!
trap 'kill -TERM "$ray" 2>/dev/null || true' TERM INT
status=0
wait "$ray" || status=$?
while kill -0 "$ray" 2>/dev/null; do # a signal ended the wait, not Ray
    wait "$ray" || status=$?
done
rm -rf "$folder"
exit "$status"
