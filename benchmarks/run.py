"""Train, score and compare the recipes of an ablation: `python -m benchmarks.run task=sr ablation=sandwich`.

On several GPUs each network is trained by all of them: `torchrun --nproc-per-node 2 -m benchmarks.run task=sr`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; returns the exit code, as `benchmarks.running.command` has them.

    torch is imported only where there is something to run: help is there at once.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help", "help"} & set(given):
        from benchmarks.settings.help import usage, usage_of_recipes

        print(usage_of_recipes() if "recipes" in given else usage(__doc__ or ""))
        return 0
    from benchmarks.runner import start

    return start(given)


if __name__ == "__main__":
    sys.exit(main())
