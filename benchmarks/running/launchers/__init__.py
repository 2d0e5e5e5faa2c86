"""Where jobs run: in this process, in parallel ones, on the nodes of a Ray or Slurm cluster, among torchrun's ranks."""
