#!/usr/bin/python3
"""Write the figures of scripts/bench-copy as a table into a Markdown file.

usage: table.py RESULTS FILE ENDS PAIRS

RESULTS has a line for each cell: case, round trip, rate, tool, seconds, bytes sent, runs, seconds of
the source's processor, bytes of the missing paths after `zstd -3`, round trips as nix-push counts them. The table goes between the marks in
FILE. ENDS says what was measured with, PAIRS names the packages of the update, one pair a line.
"""

import sys
from datetime import date

BEGIN, END = "<!-- scripts/bench copy: begin -->", "<!-- scripts/bench copy: end -->"
# At least so many times faster than nix-copy-closure and ssh-ng://.
TARGETS = {
    ("cold", 0, 0): (1.4, 1.2),
    ("cold", 30, 0): (15, 2),
    ("cold", 150, 0): (30, 3.4),
    ("cold", 0, 100): (3.3, 3),
    ("small", 30, 0): (3, 1.6),
    ("small", 150, 0): (3, 1.6),
    ("none", 30, 0): (1.7, 2),
    ("none", 150, 0): (1.7, 2),
    ("mass", 0, 100): (10, 10),
    ("ten", 0, 100): (3, 3),
}
# At most this part of the compressed bytes.
PARTS = {"mass": 50, "update": 5}
WORDS = {
    "cold": "nothing there", "small": "small change", "none": "nothing to do", "mass": "mass rebuild",
    "update": "update of packages", "one": "one machine", "ten": "ten machines",
}
TOOLS = ["nix-push", "nix-push-whole", "nix-copy-closure", "ssh", "ssh-ng", "export", "raw", "import"]
HEADS = {"nix-push-whole": "`--delta off`", "ssh": "ssh://", "ssh-ng": "ssh-ng://"}


def amount(number):
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000


def verdict(reached, wanted, better=">="):
    met = reached >= wanted if better == ">=" else reached <= wanted
    return f"{'met' if met else '**missed**'}"


def main():
    results, file, ends, pairs = sys.argv[1:]
    cells = {}
    with open(results) as lines:
        for line in lines:
            case, rtt, rate, tool, *numbers = line.split()
            seconds, sent, runs, cpu, compressed, turns = map(float, numbers)
            cells.setdefault((case, int(rtt), int(rate)), {})[tool] = (seconds, sent, int(runs), cpu, compressed, int(turns))
    used = [tool for tool in TOOLS if any(tool in row for row in cells.values())]
    out = [
        f"Made by `scripts/bench copy --markdown docs/copy.md` on {date.today()}: {ends}.",
        "Seconds, medians of three runs; of one run where it is marked `*`.",
        "",
        "| case | round trip, rate | " + " | ".join(HEADS.get(tool, tool) for tool in used) + " |",
        "|---|---|" + "---|" * len(used),
    ]
    for (case, rtt, rate), row in cells.items():
        link = f"{rtt} ms, {f'{rate} Mbit/s' if rate else 'no limit'}"
        seconds = [f"{row[tool][0]:.2f}{'*' if row[tool][2] == 1 else ''}" if tool in row else "" for tool in used]
        out.append(f"| {WORDS[case]} | {link} | " + " | ".join(seconds) + " |")
    out += ["", "| case | round trip, rate | measure | wanted | reached | |", "|---|---|---|---|---|---|"]

    def line(key, measure, wanted, reached, met):
        case, rtt, rate = key
        link = f"{rtt} ms, {f'{rate} Mbit/s' if rate else 'no limit'}"
        out.append(f"| {WORDS[case]} | {link} | {measure} | {wanted} | {reached} | {met} |")

    for key, row in cells.items():
        case, rtt, rate = key
        if "nix-push" not in row:
            continue
        seconds, sent, _, cpu, compressed, turns = row["nix-push"]
        for peer, target in zip(("nix-copy-closure", "ssh-ng"), TARGETS.get(key, ())):
            if peer in row:
                times = row[peer][0] / seconds
                name = HEADS.get(peer, peer)
                line(key, f"faster than {name}", f"{target} times", f"{times:.1f} times", verdict(times, target))
        if case == "none":
            line(key, "round trips from no connection to done", "at most 10", turns, verdict(turns, 10, "<="))
        if "import" in row:
            times = seconds / row["import"][0]
            line(key, "longer than `nix-store --import` there", "at most 1.5 times", f"{times:.2f} times", verdict(times, 1.5, "<="))
        one = cells.get(("one", rtt, rate), {}).get("nix-push")
        if case == "ten" and one and one[3]:
            share = (cpu - one[3]) / 9 / one[3]
            line(key, "the source's processor for each further machine", "under 1/4 of the first", f"{share:.2f}", verdict(share, 0.25, "<="))
        if key == ("cold", 0, 100):
            share = (seconds / (compressed * 8 / rate / 1e6) - 1) * 100
            line(key, "over the compressed bytes at the link's rate", "at most 5 %", f"{share:.1f} %", verdict(share, 5, "<="))
        if case in PARTS:
            part = compressed / sent
            reached = f"1/{part:.0f}: {amount(sent)} of {amount(compressed)}"
            line(key, "part of the compressed bytes", f"at most 1/{PARTS[case]}", reached, verdict(part, PARTS[case]))
    out += [
        "",
        "The packages of the update, older and newer version:",
        *(f"`{pair}`," for pair in pairs.strip().splitlines()[:-1]),
        *(f"`{pair}`." for pair in pairs.strip().splitlines()[-1:]),
    ]
    write_between(file, BEGIN, END, out)


def write_between(file, begin, end, lines):
    """Put the lines between two marks of a file, in place of what is there."""
    with open(file) as old:
        text = old.read()
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    with open(file, "w") as new:
        new.write(f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}")


if __name__ == "__main__":
    main()
