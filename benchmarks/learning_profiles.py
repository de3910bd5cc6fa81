"""A whole training of a profile, judged on planted truth against the blurred matched filter.

``python -m benchmarks.learning_profiles [--profile cpu] [--seeds 1] [--first 0]`` prints the rows of ``docs/learning.md``; about a
quarter of an hour a seed of profile ``cpu``.  The granules are those of the benchmark ``learning``, which trains the shorter profile
``demo``.
"""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks import machine
from benchmarks.learning import one_seed
from geostack_pipeline.learning.profiles import PROFILES

GRANULES = (130, 20, 60)
"""Granules of the training, to choose thresholds on, and of the test."""


def main(arguments: list[str] | None = None) -> int:
    """Train, judge and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_profiles", description=__doc__)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="cpu")
    parser.add_argument("--seeds", type=int, default=1, help="trainings (default 1)")
    parser.add_argument("--first", type=int, default=0, help="first seed (default 0)")
    chosen = parser.parse_args(arguments)
    print(machine.text(machine.describe()))
    print("| seed | method | AUPRC (95 %) | F1 of plumes (95 %) | false/granule |\n|---|---|---|---|---|")
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        wall, cpu = time.perf_counter(), time.process_time()
        for row in one_seed(seed, PROFILES[chosen.profile], GRANULES).scores:
            _, method, auprc, low, high, f1, f1_low, f1_high, false, _ = row
            rate = "" if false is None else f"{false:.2f}"
            print(
                f"| {seed} | {method} | {auprc:.3f} ({low:.3f} to {high:.3f}) "
                f"| {f1:.3f} ({f1_low:.3f} to {f1_high:.3f}) | {rate} |",
                flush=True,
            )
        print(
            f"{(time.perf_counter() - wall) / 60.0:.1f} min, {(time.process_time() - cpu) / 60.0:.1f} CPU min",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
