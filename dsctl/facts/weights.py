"""What a host has of a directory of weights, and which other weights lie beside it: two questions and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Arguments: the directory. One line a fact; what grows lies in DIRECTORY.partial.
HELD = """d=$1; p=$1.partial
top=$d; while [ ! -d "$top" ]; do top=$(dirname -- "$top"); done
echo "free $(df -P -B 1 -- "$top" | awk 'NR == 2 { print $4 }')"
[ -s "$d/config.json" ] && echo "there yes"
[ -s "$d/.dsctl/root" ] && echo "root $(head -n 1 "$d/.dsctl/root")"
[ -s "$d/.dsctl/origin" ] && echo "origin $(head -n 1 "$d/.dsctl/origin")"
[ -d "$d" ] && echo "bytes $(du -s -k -- "$d" | cut -f 1)"
[ -d "$p" ] && echo "partial $(du -s -k -- "$p" | cut -f 1)"
exit 0
"""

# Arguments: the directory in which models lie. One line a model: KiB, root or -, name.
LISTED = """cd "$1" 2>/dev/null || exit 0
for d in *; do
    [ -e "$d/config.json" ] || [ -d "$d/.dsctl" ] || continue
    root=-
    [ -s "$d/.dsctl/root" ] && root=$(head -n 1 "$d/.dsctl/root")
    echo "$(du -s -k -- "$d" | cut -f 1) $root $d"
done
"""


@dataclass(frozen=True, slots=True)
class Held:
    """One directory on one host. Sizes are bytes on disk."""

    free: int  # of the file system it is or would be on
    is_there: bool = False  # a config.json at least
    root: str = ""  # the hash of everything, once all was received and verified
    origin: str = ""  # where it came from
    size: int = 0
    partial: int = 0  # received so far by a transfer that did not end

    @property
    def present(self) -> int:
        """Bytes that need not move, if they are the right ones."""
        return max(self.size, self.partial)


@dataclass(frozen=True, slots=True)
class Stored:
    """One model in a host's store."""

    name: str
    size: int
    root: str  # empty: it did not come through dsctl, or is not whole

    @property
    def is_partial(self) -> bool:
        """A transfer that did not end."""
        return self.name.endswith(".partial") or self.name.endswith(".old")


def parse_held(text: str) -> Held:
    """The answer to HELD."""
    told = {key: value for key, _, value in (line.partition(" ") for line in text.splitlines())}

    def kibi(key: str) -> int:
        return int(told[key]) * 1024 if told.get(key, "").isdigit() else 0

    free = int(told["free"]) if told.get("free", "").isdigit() else 0
    root = told.get("root", "")
    is_root = len(root) == 64 and all(each in "0123456789abcdef" for each in root)
    return Held(free, told.get("there") == "yes", root if is_root else "", told.get("origin", ""), kibi("bytes"),
                kibi("partial"))  # fmt: skip


def parse_listed(text: str) -> Sequence[Stored]:
    """The answer to LISTED."""
    found: list[Stored] = []
    for line in text.splitlines():
        size, _, rest = line.partition(" ")
        root, _, name = rest.partition(" ")
        if size.isdigit() and name:
            found.append(Stored(name, int(size) * 1024, root if root != "-" else ""))
    return found
