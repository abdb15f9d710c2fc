#!/bin/bash
# A sweep on whole nodes of SLURM. From the root of the working tree:
#
#   sbatch --nodes=8 --gpus-per-node=4 cluster/slurm.sh femnist --name wide --num-trials 200 --gpus-per-trial 0.25
#   sbatch --nodes=8 --gpus-per-node=4 cluster/slurm.sh --resume results/femnist/wide
#
# What follows the script's name are flags of tune_search.py; cluster/README.md says the rest.

#SBATCH --job-name=hlvnn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --output=slurm-%j.out

# Nothing else runs on these nodes: Ray counts their CPUs and GPUs itself and keeps its own ports.
export HLVNN_NODES=whole
exec bash "$SLURM_SUBMIT_DIR/cluster/slurm_job.sh" "$@"
