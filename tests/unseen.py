#!/usr/bin/python3
"""Lists what the tools can say and no test has made them say.

  tests/unseen.py SEEN    SEEN is what a run of scripts/test heard: the stderr of every tool

A sentence is a literal of the sources with two words or more; of a script for machines, what it fails
with, warns of, or writes into the log. It counts as seen if the tools printed
it, or if a test beside the code quotes it. tests/unseen.txt lists those that no test makes happen,
each with the reason; the status is 1 if another one was not seen, or one of them is said no more, or
if an error came without a hint.
"""

import json
import pathlib
import re
import sys

PROJECT = pathlib.Path(__file__).resolve().parent.parent
CRATES = ["machine-record", "machine-ssh", "nixos-ami", "keygen", "ec2-up", "nix-push", "nixos-switch"]
TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<raw>b?r(?P<hashes>\#*)".*?"(?P=hashes))|b?"(?P<text>(?:\\.|[^"\\])*)\""""
    r"""|(?P<char>b?'(?:\\.[^']*|[^'\\])')|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<word>[A-Za-z_][\w:]*!?)|(?P<other>\S)""",
    re.S,
)
# Calls whose literals are compared with, or run, and said to nobody.
NOT_SAID = re.compile(r"said|contains|starts_with|ends_with|strip_prefix|split\w*|trim\w*|Key::new$|#\[|write!|args?$|concat!|debug_assert!?|find|replace|matches!|command|run|open|update")

# Lists that are compared with: what follows asks whether somebody said one of them.
COMPARED = re.compile(r"(?:let (\w+) = )?\[[^][]*\](?:;[^;]*?\b\1)?\.iter\(\)\.any\(\|(\w+)\| [\w.]*(?:contains|said)\(\2\)\)")

# Said to a shell or to Nix, and marks of ours in what programs say.
FOR_PROGRAMS = re.compile(r"exec |\w+ = \w+: let\b|trace: |(nixpipe|nix-push): \w+:?\s*(\\n)?$|\w+ -\w+ \|")


def literals(text):
    """The literals of Rust source outside its tests: line, text, the calls around it."""
    text = re.split(r"#\[cfg\(test\)\]\nmod tests \{", text)[0]
    # Tables and scripts: the words of others, and code. A hint that has a name is one of ours.
    named = re.compile(r"^(?:pub(?:\(crate\))? )?(?:const|static) .*?;\n", re.S | re.M)
    hint = re.compile(r'[^"]*: &str =\s+"(?:[^"\\]|\\.)*";\n', re.S)
    blank = lambda found: "\n" * found[0].count("\n")
    text = named.sub(lambda found: found[0] if hint.fullmatch(found[0]) else blank(found), text)
    text = COMPARED.sub(blank, text)
    calls, word, before = [], "", ""
    for token in TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "open":
            around = "#[" if token[0] == "[" and before in "#!" else word if before == word else ""
            calls.append("" if token[0] == "{" else around)
        elif kind == "close" and calls:
            calls.pop()
        elif kind == "text" and not token[0].startswith("b"):
            yield text.count("\n", 0, token.start()) + 1, token["text"], [call for call in calls if call]
        if kind == "word":
            word = token[0]
        if kind != "comment":
            before = token[0]


def fixed(text):
    """The parts of a sentence between its placeholders, white space evened out."""
    text = re.sub(r"\\\n\s*", "", text)
    text = text.replace('\\"', '"').replace("\\n", " ").replace("\\t", " ").replace("\\\\", "\\")
    text = text.replace("{{", "\0").replace("}}", "\1")
    parts = re.split(r"\{[^{}]*\}", text)
    return [re.sub(r"\s+", " ", part.replace("\0", "{").replace("\1", "}")) for part in parts]


def sentences():
    for crate in CRATES:
        for file in sorted((PROJECT / crate / "src").rglob("*.sh")):
            yield from shell_sentences(file)
        for file in sorted((PROJECT / crate / "src").rglob("*.rs")):
            if file.stem.endswith("_tests") or file.stem == "schema":
                continue
            for line, text, calls in literals(file.read_text()):
                parts = fixed(text)
                words = re.findall(r"[a-z][a-z'-]+", " ".join(parts)) if " " in "".join(parts).strip() else []
                code = re.search(r"[=;$|<>]|\\n\S|^[-A-Z ]+$", text) and not re.search(r"--\w|:\s\w", text)
                code = code or FOR_PROGRAMS.match(text)
                if len(words) >= 2 and not code and not any(NOT_SAID.match(call) for call in calls) and "\n" not in text:
                    yield f"{file.relative_to(PROJECT)}:{line}", parts


# What the scripts for machines say, the hints after it included, and what they fill in.
SAID_IN_SH = re.compile(
    r"""\b(?:fail [a-z-]+|give_up|put "\$dir/reason"|fact warning|echo)((?:[ ](?:\\\n\s*)?(?:"(?:\$\([^()]*\)|[^"\\]|\\.)*"|'[^']*'))+)"""
)
LITERAL_IN_SH = re.compile(r""""((?:\$\([^()]*\)|[^"\\]|\\.)*)"|'([^']*)'""")
FILLED_IN = re.compile(r"\$\([^()]*\)|\$\{[^}]*\}|\$\w+")


def shell_sentences(file):
    text = re.sub(r"(?m)^[ \t]*#.*", "", file.read_text())
    for said_here in SAID_IN_SH.finditer(text):
        for literal in LITERAL_IN_SH.finditer(said_here[1]):
            parts = FILLED_IN.split(literal[1] or literal[2] or "")
            words = re.findall(r"[a-z][a-z'-]+", " ".join(parts))
            if len(words) >= 2 and not FOR_PROGRAMS.match("".join(parts)):
                yield f"{file.relative_to(PROJECT)}:{text.count(chr(10), 0, said_here.start()) + 1}", parts


def beside_the_code():
    """The tests' own text: what a unit test quotes, it has made."""
    files = [file for crate in CRATES for part in ("src", "tests") for file in (PROJECT / crate / part).rglob("*.rs")]
    for file in files:
        text = file.read_text()
        whole = "tests" in file.parts or file.stem.endswith("_tests")
        yield text if whole else "".join(re.split(r"#\[cfg\(test\)\]\nmod tests \{", text)[1:])


def said(file):
    """What the tools said, each line once: on stderr, and in the errors and plans of records."""
    lines = set()
    for line in file.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            told = [record.get("error"), record.get("plan"), record.get("event"), record.get("hint")]
            line = json.dumps(told, ensure_ascii=False).replace('\\"', '"')
        lines.add(re.sub(r"\s+", " ", line))
    return lines


def bare(file):
    """The errors without a hint, each once, whatever numbers they name."""
    errors = {}
    for line in file.read_text(errors="replace").splitlines():
        try:
            error = json.loads(line).get("error") if line.startswith("{") else None
        except ValueError:
            continue
        # What tests hand on as the error of an earlier tool has a message of one word.
        if isinstance(error, dict) and not error.get("hint") and " " in str(error.get("message")):
            errors.setdefault(re.sub(r"[0-9a-f]{8,}|\d+", "#", error["message"]), error)
    return errors.values()


def found(text, inside):
    """Where a text stands."""
    at = inside.find(text)
    while at >= 0:
        yield at
        at = inside.find(text, at + 1)


def main():
    heard = "\n" + "\n".join(said(pathlib.Path(sys.argv[1]))) + "\n"
    quoted = re.sub(r"\s+", " ", " ".join(beside_the_code()))
    lines = (PROJECT / "tests/unseen.txt").read_text().splitlines()
    excused = {line.strip() for line in lines if line.strip() and not line.startswith("# ")}
    wrong = 0
    count = 0
    gone = set(excused)
    for place, parts in sentences():
        count += 1
        shown = "{}".join(parts).strip()
        gone.discard(shown)
        longest = max(parts, key=len).strip()
        pattern = re.compile(".*?".join(re.escape(part) for part in parts))
        lines = (heard[heard.rfind("\n", 0, at) + 1 : heard.find("\n", at)] for at in found(longest, heard))
        seen = any(pattern.search(line) for line in lines) or (len(longest) >= 8 and longest in quoted)
        if not seen and shown not in excused:
            wrong += 1
            print(f"not seen: {place}: {shown}")
        elif seen and shown in excused:
            print(f"seen, though tests/unseen.txt excuses it: {place}: {shown}")
    for shown in sorted(gone):
        wrong += 1
        print(f"tests/unseen.txt excuses what no tool says: {shown}")
    print(f"{count} sentences, {len(excused)} excused, {wrong} not seen")
    for error in bare(pathlib.Path(sys.argv[1])):
        wrong += 1
        print(f"no hint: {error.get('tool')}: {error['message']}")
    sys.exit(wrong > 0)


main()
