"""Commands of Slurm that run jobs on this machine: `write_commands(folder)`, then put the folder first in PATH."""

from __future__ import annotations

import sys
from pathlib import Path

SBATCH = """
import os, re, subprocess, sys, time
from pathlib import Path
here, script = Path(__file__).parent, Path(sys.argv[-1])
text = script.read_text()
number = len(list(here.glob("*.sbatch"))) + 1
(here / f"{number}.sbatch").write_text(text)
array = re.search(r"--array=0-(\\d+)%", text)
for task in range(int(array[1]) + 1) if array else [None]:
    own = {"SLURM_JOB_ID": str(number)}
    if task is not None:
        own = {"SLURM_JOB_ID": str(100 * number + task), "SLURM_ARRAY_JOB_ID": str(number)}
        own["SLURM_ARRAY_TASK_ID"] = str(task)
    name = str(number) if task is None else f"{number}_{task}"
    for key in ("NODEID", "PROCID", "LOCALID"):
        own[f"SLURM_{key}"] = "0"
    own |= {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    with open(here / f"{name}.printed", "w") as out:
        job = subprocess.Popen(["bash", str(script)], env=os.environ | own, stdout=out, stderr=out)
    (here / f"{name}.job").write_text(str(job.pid))
print(f"Submitted batch job {number}")
"""
SRUN = """
import os, sys
command = sys.argv[1:]
while command[0].startswith("--"):
    command = command[2:] if command[0] == "--output" else command[1:]
os.execvp(command[0], command)
"""
SACCT = """
import sys
from pathlib import Path
print("JobID|State|NodeList")
for job in Path(__file__).parent.glob("*.job"):
    status = Path("/proc") / job.read_text() / "stat"
    lives = status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
    print(f"{job.stem}|{'RUNNING' if lives else 'FAILED'}|here")
"""


def write_commands(folder: Path) -> None:
    """sbatch, srun, sacct, and an scancel that does nothing."""
    folder.mkdir()
    for name, code in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": ""}.items():
        command = folder / name
        command.write_text(f"#!{sys.executable}\n{code}")
        command.chmod(0o755)
