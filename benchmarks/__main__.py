"""``python -m benchmarks [name …] [--repeat N] [--quick] [--json]``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from benchmarks import machine

NAMES = (
    "search",
    "fetch",
    "cube",
    "swath",
    "orchestration",
    "chunks",
    "timeline",
    "loader",
    "filters",
    "learning",
    "learning_memory",
)


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks, or all, and print what they found; 0 whether or not targets are met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="measures the pipeline and its peers"
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of {', '.join(NAMES)}; default: all")
    parser.add_argument(
        "--repeat", type=int, default=3, help="runs of each way; medians are printed (default 3)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, one run: shows that it works, not how fast"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(NAMES)}")
    here = machine.describe()
    if not chosen.json:
        print(machine.text(here), flush=True)
    reports = []
    for name in chosen.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        report = module.run(quick=chosen.quick, repeat=1 if chosen.quick else max(1, chosen.repeat))
        reports.append(report.as_json())
        if not chosen.json:
            print(report.text(), flush=True)
    if chosen.json:
        print(json.dumps({"machine": here, "reports": reports}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
