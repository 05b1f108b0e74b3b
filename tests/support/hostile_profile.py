"""hostile_profile.py FILE SEED >PROFILE: counts that no run can give, for the code of FILE (rule R11).

Edges, branches, runs and samples, between real branches and their targets as often as between any two bytes of the code (middles of
instructions, other sections, nowhere), from 0, back to front, repeated; counts 0, 1, huge, or contradicting each other; names, ranges
and hashes of regions that are not so. One kind dominates each profile.
"""
import random
import re
import subprocess
import sys

WINDOW = 300_000  # bytes of code that are looked at
LINES = 3000
HUGE = [2**63 - 1, 2**63, 2**64 - 1, 2**32, 2**53 + 1]


def words(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def read_code(path, rng):
    """(lo, hi) of .text, [(branch, target)], [instruction]"""
    found = re.search(r"\] \.text +\S+ +(\w+) +\w+ +(\w+)", words("readelf", "-SW", path))
    lo, size = int(found[1], 16), int(found[2], 16)
    start = lo + (rng.randrange(size - WINDOW) if size > WINDOW else 0)
    branches, insns = [], []
    text = words("objdump", "-d", "--no-show-raw-insn", "-j", ".text", f"--start-address={start:#x}", f"--stop-address={start + WINDOW:#x}", path)
    for line in text.splitlines():
        found = re.match(r" *([0-9a-f]+):\t(\S+)(?: +([0-9a-f]+) <)?", line)
        if found:
            insns.append(int(found[1], 16))
            if found[3] and found[2][0] in "jc":
                branches.append((insns[-1], int(found[3], 16)))
    return lo, lo + size, branches or [(lo, lo)], insns or [lo]


def main():
    path, seed = sys.argv[1], int(sys.argv[2])
    rng = random.Random(seed)
    build_id = re.search(r"Build ID: (\w+)", words("readelf", "-nW", path))[1]
    lo, hi, branches, insns = read_code(path, rng)

    def anywhere():
        return rng.choice([rng.choice(insns), rng.choice(insns) + rng.randrange(1, 8), rng.randrange(lo, hi), rng.choice(branches)[1],
                           0, 1, hi, 2**64 - 1, rng.getrandbits(64), lo - 0x1000 if lo > 0x1000 else 0])

    def pair():
        real, kind = rng.choice(branches), rng.random()
        if kind < true_edges:
            return real
        if kind < true_edges + 0.1:
            return real[0], next((i for i in insns if i > real[0]), lo)  # falls through
        return rng.choice([(real[0], anywhere()), (anywhere(), real[1]), (anywhere(), anywhere()), (0, anywhere()), real[::-1]])

    true_edges = rng.choice([0.0, 0.3, 0.9])
    how = rng.choice(["zero", "huge", "mixed", "one hot", "small"])

    def count():
        if how == "zero":
            return 0
        if how == "huge":
            return rng.choice(HUGE)
        if how == "one hot":
            return 2**62 if rng.random() < 0.001 else 1
        if how == "small":
            return rng.randrange(4)
        return rng.choice([0, 1, rng.randrange(10**6), rng.getrandbits(64), rng.choice(HUGE)])

    lines = [f"module {build_id} {path}"]
    kinds = rng.choice(["e", "b", "f", "s", "ebfs"])
    for _ in range(LINES):
        kind, (a, b), n = rng.choice(kinds), pair(), count()
        line = {"e": f"e {a:x} {b:x} {n}", "b": f"b {a:x} {b:x} {n} {count()}", "f": f"f {a:x} {b:x} {n}", "s": f"s {b:x} {n}"}[kind]
        lines += [line] * rng.choice([1, 1, 1, 3])
    lines += [f"s {rng.choice(insns):x} {rng.choice([1, 7, 10**6])}" for _ in range(50)]  # or nothing would be chosen
    for _ in range(40 if rng.random() < 0.5 else 0):
        a, b = sorted((anywhere(), anywhere()))
        lines.append(f"r {a:x} {b + 1 if b < 2**64 - 1 else b:x} {rng.getrandbits(64):016x} nobody")
    head = ["optvm-profile 1", "event " + how.replace(" ", "-"), "source hostile", "frequency 0", f"samples {rng.choice([0, 5, 2**64 - 1])}",
            "lost 0", "unmapped 0", "processes 1"]
    print("\n".join(head + lines + [f"end {len(head) + len(lines)}"]))


main()
