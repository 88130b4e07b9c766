"""The boot loader of a machine: reads GRUB's menu on its /boot and says what to boot.

It understands what NixOS's install-grub.pl writes (nixpkgs:
nixos/modules/system/boot/loader/grub/install-grub.pl) and `grub-reboot`'s
one-time `next_entry` in the environment block.
"""

import dataclasses
import os
import re
import shlex

# What the image has in place of kernel and initrd: mounts what the kernel
# would show, then becomes the entry's init.
STAGE_1 = "/usr/lib/local-cloud/stage-1"

# Size of GRUB's environment block, padded with "#" (GRUB manual, "Environment block").
BLOCK = 1024
BLOCK_HEADER = "# GRUB Environment Block\n"


class BootError(Exception):
    """Why nothing can be booted."""


@dataclasses.dataclass
class Entry:
    """One menu entry."""

    title: str
    command_line: str = ""

    def init(self, root):
        """Returns the entry's init, a path on the machine; it must be there, and so must what interprets it."""
        for word in shlex.split(self.command_line):
            if word.startswith("init="):
                init = word[len("init=") :]
                if not (root / init.lstrip("/")).is_file():
                    raise BootError(f"file `{init}' not found")
                return init
        raise BootError(f"`{self.title}' names no init")


def next_entry(boot):
    """Returns the entry to boot now; a one-time entry is used up by that."""
    try:
        text = (boot / "grub" / "grub.cfg").read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BootError("file `/boot/grub/grub.cfg' not found") from error
    entries = menu(text)
    wanted = _take_once(boot / "grub" / "grubenv")
    if wanted is None:
        defaults = re.findall(r'^\s*set default="?([^"$\s]+)"?\s*$', text, re.MULTILINE)
        wanted = defaults[-1] if defaults else "0"
    entry = find(entries, wanted)
    if entry is None:
        # GRUB falls back to the first entry when it does not find the wished one.
        entry = find(entries, "0")
    if entry is None:
        raise BootError("no menu entry in `/boot/grub/grub.cfg'")
    return entry


def menu(text):
    """Returns the entries of a grub.cfg in order; submenus hold lists."""
    top = []
    open_lists = [(None, top)]
    entry = None
    for line in text.splitlines():
        line = line.strip()
        if match := re.match(r"submenu (\"[^\"]*\"|'[^']*').*\{$", line):
            children = []
            open_lists[-1][1].append((match.group(1)[1:-1], children))
            open_lists.append((match.group(1)[1:-1], children))
        elif match := re.match(r"menuentry (\"[^\"]*\"|'[^']*').*\{$", line):
            entry = Entry(match.group(1)[1:-1])
        elif entry and line.startswith("linux"):
            entry.command_line = line.split(None, 2)[2] if len(line.split(None, 2)) > 2 else ""
        elif line == "}":
            if entry:
                open_lists[-1][1].append(entry)
                entry = None
            elif len(open_lists) > 1:
                open_lists.pop()
    return top


def find(entries, wanted):
    """Finds an entry by number or title; "a>b" goes into submenus (GRUB manual, "default")."""
    name, _, rest = wanted.partition(">")
    for number, item in enumerate(entries):
        title = item.title if isinstance(item, Entry) else item[0]
        if name not in (str(number), title):
            continue
        if isinstance(item, Entry):
            return None if rest else item
        return find(item[1], rest or "0")
    return None


def _take_once(path):
    """Returns `next_entry` of the environment block and deletes it there, or None."""
    try:
        block = path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
    if not block.startswith(BLOCK_HEADER):
        return None
    lines = [line for line in block[len(BLOCK_HEADER) :].splitlines() if line and not line.startswith("#")]
    once = [line.partition("=")[2] for line in lines if line.startswith("next_entry=")]
    if not once or not once[-1]:
        return None
    rest = "".join(line + "\n" for line in lines if not line.startswith("next_entry="))
    # GRUB writes the block in place, as it cannot allocate: the size stays.
    with open(path, "r+") as file:
        file.write((BLOCK_HEADER + rest).ljust(BLOCK, "#"))
        file.flush()
        os.fsync(file.fileno())
    return once[-1]
