#!/bin/bash
# What slurm.sh and slurm_shared.sh have in common: a Ray cluster on the job's nodes, a sweep on it,
# and the end of both. Runs on the job's first node. Every process that it ends, it ends by its id.
set -euo pipefail

fail() { # a mistake of whoever submits: one message, exit code 2
    echo "error: $*" >&2
    exit 2
}

: "${SLURM_JOB_ID:?submit cluster/slurm.sh or cluster/slurm_shared.sh with sbatch}"
cd "$SLURM_SUBMIT_DIR"
if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 && " $* " != *" --or-resume "* && " $* " != *" --resume "* ]]; then
    fail "job $SLURM_JOB_ID was requeued, and its flags would begin a second sweep beside the first;" \
        "submit it with --name NAME --or-resume"
fi
if [[ -n ${HLVNN_SETUP:-} ]]; then # modules, conda: a file of shell commands
    [[ -r $HLVNN_SETUP ]] || fail "HLVNN_SETUP=$HLVNN_SETUP: no such file"
    set +eu
    # shellcheck disable=SC1090
    source "$HLVNN_SETUP"
    set -eu
fi
in_container=()
venv=${HLVNN_VENV:-.venv}
if [[ -n ${HLVNN_IMAGE:-} ]]; then # made from cluster/apptainer.def
    [[ -r $HLVNN_IMAGE ]] || fail "HLVNN_IMAGE=$HLVNN_IMAGE: no such image"
    in_container=(apptainer exec --nv --bind "$PWD${HLVNN_TMP:+,$HLVNN_TMP}" "$HLVNN_IMAGE")
elif [[ -r $venv/bin/activate ]]; then
    set +u
    # shellcheck disable=SC1091
    source "$venv/bin/activate"
    set -u
elif [[ -z ${HLVNN_SETUP:-} ]]; then
    fail "$PWD: no virtual environment $venv on this node: run make install there, once, or name" \
        "another by HLVNN_VENV, or commands that make one by HLVNN_SETUP"
fi
for program in python ray; do
    [[ -n ${HLVNN_IMAGE:-} ]] || command -v "$program" >/dev/null ||
        fail "no $program on this node: see HLVNN_VENV and HLVNN_SETUP in cluster/README.md"
done
python=("${in_container[@]}" python)

# Ray's longest socket, below the folder that slurm_node.sh makes: a path of 107 bytes at most.
longest="${HLVNN_TMP:-/tmp}/hlvnn.$SLURM_JOB_ID.XXXX/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.12"
[[ ${#longest} -le 107 ]] ||
    fail "HLVNN_TMP=${HLVNN_TMP:-}: $((${#longest} - 107)) characters too long for Ray's sockets"

export RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}"
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
if [[ $RAY_AUTH_MODE == token && -z ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} ]]; then
    # A token for this job alone. It stands in no file and in no command line: only in the
    # environment of this user's processes, which no other user can read.
    RAY_AUTH_TOKEN=$("${python[@]}" -c 'import secrets; print(secrets.token_hex(32))')
    export RAY_AUTH_TOKEN
fi
# Ray's memory monitor counts the whole node: it would end trials for what other jobs use.
[[ $HLVNN_NODES == whole ]] || export RAY_memory_monitor_refresh_ms=0
export HLVNN_COMMAND="sbatch [OPTIONS] cluster/slurm${HLVNN_NODES/#/_}.sh"
HLVNN_COMMAND=${HLVNN_COMMAND/_whole/}
export HLVNN_KEPT_LOGS="$PWD/slurm-$SLURM_JOB_ID.ray"

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]} # this node
export HLVNN_HEAD_NODE=$head
# Its own name may stand for a loopback address in /etc/hosts, which no other node can reach.
addresses=$(hostname --ip-address 2>/dev/null || true; hostname -I 2>/dev/null || true)
head_ip=${HLVNN_HEAD_IP:-$(tr ' ' '\n' <<<"$addresses" | grep -E '^[0-9]+(\.[0-9]+){3}$' |
    grep -v -m 1 '^127\.' || true)}
[[ -n $head_ip ]] || fail "no address of $head that other nodes can reach; name it by HLVNN_HEAD_IP"
port=${HLVNN_PORT:-6379}
if [[ $HLVNN_NODES == shared ]]; then
    port=$("${python[@]}" cluster/free_port.py "$SLURM_JOB_ID")
fi
export RAY_ADDRESS="$head_ip:$port"

# A step takes the job's requests for its own from these, and would ask each node for all of them.
for name in GPUS GPUS_PER_NODE GPUS_PER_TASK GPUS_PER_SOCKET MEM_PER_CPU MEM_PER_NODE MEM_PER_GPU \
    CPUS_PER_GPU CPUS_PER_TASK TRES_PER_TASK NTASKS NPROCS NTASKS_PER_NODE NTASKS_PER_GPU EXACT \
    DISTRIBUTION CORE_SPEC; do
    unset "SLURM_$name"
done

# The driver's own temporary files: private, and swept up by slurm_node.sh where this job is killed.
folder=$(mktemp -d "${HLVNN_TMP:-/tmp}/hlvnn.$SLURM_JOB_ID.XXXX")
exec 9>"$folder/owner"
! command -v flock >/dev/null || flock 9
node_pids=()
driver=
on_node() { # NODE ROLE: start Ray on a node, in the background
    srun --nodes=1 --ntasks=1 --nodelist="$1" --overlap --mem=0 --export=ALL --kill-on-bad-exit=0 \
        bash cluster/slurm_node.sh "$2" "$port" "${in_container[@]}" 9>&- &
    node_pids+=($!)
}
any_node_runs() {
    local pid
    for pid in "${node_pids[@]}"; do
        kill -0 "$pid" 2>/dev/null && return 0
    done
    return 1
}
is_preempted() {
    scontrol show job --oneliner "$SLURM_JOB_ID" 2>/dev/null |
        grep -q -E 'PreemptTime=[0-9]'
}
finish() {
    local status=$? # of what ended the script
    trap '' TERM INT HUP PIPE USR1
    set +e
    local swept=$status
    if [[ -n $driver ]] && kill -0 "$driver" 2>/dev/null; then
        kill -TERM "$driver" # it writes its tables; --or-resume goes on
        local alone=0 # half seconds without Ray: SLURM has ended it, and will soon end this script
        while kill -0 "$driver" 2>/dev/null; do
            any_node_runs || alone=$((alone + 1))
            [[ $alone -lt 10 ]] || kill -KILL "$driver"
            sleep 0.5
        done
        wait "$driver"
        swept=$?
    fi
    case $swept in
        0 | 2 | 130 | 143) ;;
        *) (umask 077 && mkdir -p "$HLVNN_KEPT_LOGS") ;; # each node leaves its Ray's logs there
    esac
    # srun passes SIGUSR1 on to the node's script. A SIGTERM would kill the step at once.
    for ((i = ${#node_pids[@]} - 1; i >= 0; i--)); do # workers before the head
        kill -USR1 "${node_pids[i]}" 2>/dev/null
    done
    for ((i = 0; i < 60; i++)); do
        any_node_runs || break
        sleep 0.5
    done
    for pid in "${node_pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null
    done
    wait "${node_pids[@]}" 2>/dev/null
    rm -rf "$folder"
    # A job that ends by itself is over for SLURM, also where it was told to make room, or where its
    # time is over and HLVNN_GO_ON asks for more.
    if is_preempted || { [[ -n ${HLVNN_GO_ON:-} && $status == 143 && $swept == 130 ]]; }; then
        scontrol requeue "$SLURM_JOB_ID" && echo "requeued: job $SLURM_JOB_ID goes on later"
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

on_node "$head" head
"${python[@]}" cluster/wait_for_nodes.py 1 --while "${node_pids[0]}"
for node in "${hosts[@]:1}"; do
    on_node "$node" worker
done
if [[ ${#hosts[@]} -gt 1 ]]; then
    "${python[@]}" cluster/wait_for_nodes.py "${#hosts[@]}" --while "${node_pids[0]}" \
        --joining "${node_pids[@]:1}"
fi

TMPDIR="$folder" "${python[@]}" tune_search.py "$@" --address "$RAY_ADDRESS" &
driver=$!
wait "$driver"
