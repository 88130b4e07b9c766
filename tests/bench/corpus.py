#!/usr/bin/python3
"""Write a closure of the shape of a NixOS system, as a Nix expression over copies of real files.

usage: corpus.py FOLDER [PATHS]

Most paths are a few small files (units, settings), some are packages, a few are large; each refers to
some made before it. FOLDER/closure.nix takes `rev`: 1 is the base; in 2, fifteen leaves differ (a small
change); in 3, every path is made anew with the same files (a mass rebuild: only hashes differ); few is
the sixth of 1 that was made first.
"""

import os
import random
import shutil
import sys

SOURCES = ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share", "/usr/include"]
SMALL, MIDDLE, LARGE = 6_000, 120_000, 20_000_000
CHANGED = 15


def pools():
    """Real files by size, in an order that is the same on each run."""
    small, middle, large = [], [], []
    for source in SOURCES:
        for folder, _, names in os.walk(source):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                size = os.path.getsize(path)
                if size < LARGE:
                    (small if size < SMALL else middle if size < MIDDLE else large).append((path, size))
    chance = random.Random(7)
    for pool in (small, middle, large):
        pool.sort()
        chance.shuffle(pool)
    return small, middle, large


def fill(folder, pool, count, limit):
    """Moves files of a pool into a folder: `count` of them, or `limit` bytes."""
    taken = 0
    while pool and count > 0 and taken < limit:
        path, size = pool.pop()
        target = folder + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(path, target)
        taken += size
        count -= 1


def main():
    out = os.path.abspath(sys.argv[1])
    paths = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    chance = random.Random(11)
    small, middle, large = pools()
    shutil.rmtree(out, ignore_errors=True)
    lines = [
        "{ rev ? \"1\" }:",
        "let",
        "  all = if rev == \"3\" then rev else \"1\";",
        "  make = name: rev: source: needs: derivation {",
        "    inherit name needs rev; system = builtins.currentSystem; builder = \"/bin/sh\"; PATH = \"/usr/bin:/bin\";",
        "    args = [ \"-c\" \"cp -r ${source} $out; chmod -R u+w $out; echo $rev > $out/rev; printf '%s\\n' $needs > $out/needs\" ];",
        "  };",
    ]
    for at in range(paths - 1):
        folder = os.path.join(out, str(at))
        os.makedirs(folder)
        draw = chance.random()
        if draw < 0.62:
            fill(folder, small, chance.randint(1, 3), 1 << 20)
        elif draw < 0.90:
            fill(folder, small, chance.randint(2, 30), 1 << 20)
            fill(folder, middle, chance.randint(1, 8), 1 << 20)
        elif draw < 0.985:
            fill(folder, middle, chance.randint(5, 30), 1 << 22)
            fill(folder, large, chance.randint(1, 4), 1_500_000)
        else:
            fill(folder, small, 300, 1 << 22)
            fill(folder, large, 12, 6_000_000)
        leaf = at >= paths - 1 - CHANGED
        known = min(at, paths - 1 - CHANGED)
        needs = sorted({chance.randrange(known) for _ in range(min(known, chance.choice([0, 1, 1, 2, 3, 4, 6])))})
        revision = "rev" if leaf else "all"
        lines.append(f"  p{at} = make \"package-{at}-1.{at % 17}\" {revision} ./{at} [ {' '.join(f'p{n}' for n in needs)} ];")
    top = os.path.join(out, "top")
    os.makedirs(top)
    everything = " ".join(f"p{at}" for at in range(paths - 1))
    few = " ".join(f"p{at}" for at in range(paths // 6))
    lines.append(f"in make \"nixos-system-bench\" rev ./top (if rev == \"few\" then [ {few} ] else [ {everything} ])")
    with open(os.path.join(out, "closure.nix"), "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
