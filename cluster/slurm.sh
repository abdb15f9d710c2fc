#!/bin/bash
# A sweep on whole nodes of SLURM. From the root of the working tree:
#
#   sbatch --nodes=8 --gpus-per-node=4 cluster/slurm.sh femnist --name wide --or-resume --num-trials 200 --gpus-per-trial 0.25
#
# What follows the script's name are flags of tune_search.py; cluster/README.md says the rest.

#SBATCH --job-name=hlvnn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

# Nothing else runs on these nodes: Ray counts their CPUs and GPUs itself.
export HLVNN_NODES=whole
exec bash "$SLURM_SUBMIT_DIR/cluster/slurm_job.sh" "$@"
