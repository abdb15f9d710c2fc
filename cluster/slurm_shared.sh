#!/bin/bash
# A sweep on parts of nodes that other jobs share. From the root of the working tree:
#
#   sbatch --nodes=4 --cpus-per-task=8 --mem=32G --gpus-per-node=1 cluster/slurm_shared.sh femnist --name wide --or-resume --gpus-per-trial 0.5
#
# What follows the script's name are flags of tune_search.py; cluster/README.md says the rest. CPUs
# and memory are for the command line: said here, they would clash with --mem, --cpus-per-gpu, ….

#SBATCH --job-name=hlvnn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

# Ray is told what this job was given (it would count the whole machine), and its head takes a port
# of the job's own. Other jobs' Rays, this user's too, are never touched.
export HLVNN_NODES=shared
exec bash "$SLURM_SUBMIT_DIR/cluster/slurm_job.sh" "$@"
