"""What a cluster starts jobs with: Slurm's queue, or ssh where there is none."""
