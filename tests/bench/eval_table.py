#!/usr/bin/python3
"""Write the figures of scripts/bench-eval as a table into a Markdown file.

usage: eval_table.py RESULTS FILE WITH

RESULTS has a line for each cell, with tabs: size in MB, machines, tool, budget in MiB, and three words: seconds, seconds
of processor, the most MiB held. The table goes between the marks in FILE. WITH says what was measured with.
"""

import sys
from datetime import date

from table import write_between

BEGIN, END = "<!-- scripts/bench eval: begin -->", "<!-- scripts/bench eval: end -->"
LOOP, KNOWN, ENDED = "loop of nix-instantiate", "nix-push, nothing new, first known", "nix-push, nothing new, ended"
BUDGET = "nix-push --eval-memory"


def main():
    results, file, what = sys.argv[1:]
    cells = {}
    with open(results) as lines:
        for line in lines:
            size, count, tool, budget, figures = line.rstrip("\n").split("\t")
            figures = tuple(map(float, figures.split()))
            cells.setdefault((int(size), int(count)), {})[tool] = (*figures, int(budget))
    out = [
        f"Made by `scripts/bench eval --markdown docs/eval.md` on {date.today()}: {what}.",
        "",
        "| each takes | machines | tool | seconds | processor | MiB |",
        "|---|---|---|---|---|---|",
    ]
    for (size, count), row in cells.items():
        for tool, (seconds, processor, memory, budget) in row.items():
            name = f"`{tool} {budget}M`" if tool == BUDGET else tool
            out.append(f"| +{size} MB | {count} | {name} | {seconds:.2f} | {processor:.2f} | {memory:.0f} |")
    out += ["", "| each takes | machines | measure | wanted | reached | |", "|---|---|---|---|---|---|"]

    def line(size, count, measure, wanted, reached, shown, more=""):
        met = "met" if reached <= wanted else "**missed**"
        out.append(f"| +{size} MB | {count} | {measure} | at most {wanted:g}{more} | {shown} | {met} |")

    for (size, count), row in cells.items():
        loop, ours = row.get(LOOP), row.get("nix-push")
        if "loop, on one processor" in row:
            times = row["nix-push, on one processor"][0] / row["loop, on one processor"][0]
            line(size, count, "seconds of the loop's, on one processor", 1.0, times, f"{times:.2f}", " times")
        if loop and ours and count > 1:
            times = ours[0] / loop[0]
            line(size, count, "seconds of the loop's", 0.6, times, f"{times:.2f}", " times")
        if KNOWN in row:
            line(size, count, "seconds until nothing new is known", 0.05, row[KNOWN][0], f"{row[KNOWN][0]:.3f}")
        if BUDGET in row and count > 1:
            _, _, memory, budget = row[BUDGET]
            line(size, count, "memory of the budget", 1.1, memory / budget, f"{memory / budget:.2f}", " times")
            one = memory / (budget / 1.4)
            line(size, count, "memory of one machine's", 1.5, one, f"{one:.2f}", " times")
    write_between(file, BEGIN, END, out)


main()
