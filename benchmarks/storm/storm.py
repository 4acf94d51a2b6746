"""The storm: everything that can happen to a run, many times over, as figures with their targets.

``python benchmarks/storm/storm.py`` (or ``make storm``) takes about a quarter of an hour, ``--full`` hours, ``--tiny``
less than one minute; ``--part kills --seed 1 --json`` runs one part and prints JSON, ``--figure F13`` what that figure
needs. The status is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import accuracy
import bytes_of_files
import costs
import crafted_files
import crafted_stores
import disk
import kills
import long_runs
import memory
import pools
import random_flows
import remaining_rows
import sizes
import stored_code
from figures import Part, Scale, table

from wgflow.errors import WGFlowWarning

PARTS: dict[str, Part] = {
    "kills": kills.kills, "signals": kills.signals, "crafted": crafted_files.crafted,
    "stores": crafted_stores.stores, "bytes": bytes_of_files.damaged,
    "flows": random_flows.flows, "pools": pools.pools, "memory": memory.memory, "disk": disk.disk,
    "compiled": stored_code.compiled, "sizes": sizes.sizes, "rows": remaining_rows.remaining_rows,
    "long": long_runs.long_runs, "accuracy": accuracy.accuracy, "costs": costs.costs,
}
#: The parts that show a figure. F23, the score of mutants and the coverage of branches, has commands of its own.
PARTS_OF = {
    "F1": ["long", "flows"], "F2": ["long", "flows"], "F3": ["long", "flows"], "F4": ["long", "flows"],
    **{f"F{k}": ["accuracy"] for k in (5, 6, 7, 8, 9, 10, 21)}, "F11": ["pools"], "F12": ["kills"],
    "F13": ["kills", "signals"], "F14": ["sizes", "rows", "disk", "compiled"], "F15": ["long", "flows"],
    "F16": ["crafted", "stores", "bytes"], "F17": ["pools"], "F18": ["memory"], "F19": ["costs", "compiled"],
    "F20": ["costs"], "F22": ["costs"], "F24": ["costs"],
}
#: Parts that take longer than a very small storm may; tests show most of what they measure.
LONGER = ("accuracy", "costs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    size = parser.add_mutually_exclusive_group()
    for name in ("tiny", "quick", "full"):
        size.add_argument(f"--{name}", action="store_const", dest="size", const=name)
    parser.set_defaults(size="quick")
    parser.add_argument("--part", action="append", choices=PARTS, help="one part; may be given again")
    parser.add_argument("--figure", choices=PARTS_OF, help="one figure")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    given = parser.parse_args()
    if not hasattr(os, "fork"):
        print("the storm forks its children: it needs Linux", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore", WGFlowWarning)
    figures = []
    with tempfile.TemporaryDirectory(prefix="wgflow-storm-") as folder:
        usual = [name for name in PARTS if given.size != "tiny" or name not in LONGER]
        for name in PARTS_OF.get(given.figure, given.part or usual):
            begin = time.monotonic()
            figures += PARTS[name](Scale(given.size, given.seed, Path(folder)))
            print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    figures = [figure for figure in figures if given.figure in (None, figure.id)]
    if given.json:
        print(json.dumps([figure.to_dict() for figure in figures], indent=1))
    else:
        print(table(figures))
    return 0 if all(figure.held for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
