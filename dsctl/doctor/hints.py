"""Reads out of a refusal's own words what would be accepted: the allowed values, the bound, the condition, the wrong option."""

from __future__ import annotations

import difflib
import re

_LIST = re.compile(
    r"(?:choo?se from|[Vv]alid (?:options|values|choices)(?: are)?|[Aa]vailable [\w ]{1,40}(?=:)|\b[Ss]upported [\w ]{1,40}(?=:)|[Ii]nput should be|[Mm]ust be one of|[Aa]llowed values(?: are)?"
    r"|[Oo]ptions are|[Ee]xpected one of)[:=]? *(?:dict_keys\()?[\[({]* *(?P<items>[`'\"\w][^\])}\n]{2,600})"
)
_BOUND = re.compile(
    r"(?P<a>[a-z]\w*(?:_\w+)+) ?[(=]?(?P<x>\d+)?\)? (?:must|should|has to) be (?P<op><=|<|>=|>|less than or equal to|at most|at least|greater than|less than) (?:the )?(?P<b>[\w.]+(?:_\w+)*) ?[(=]?(?P<y>\d+)?"
)
_ONLY = re.compile(
    r"(?P<what>[A-Z`'\"-][^\n.:]{2,100}?) (?:(?:is|are) (?:currently )?)?only (?:supported|available|works?|supports|compatible) ?(?:with|for|on|when|by|if|in)? (?P<when>[^\n;]{2,140}?)(?:\. |\.?$|\.?»)"
)
_NOT = re.compile(
    r"(?P<what>[\w`'\". +/=-]{2,100}?) (?:(?:is|are) (?:currently )?not (?:yet )?(?:supported|compatible|implemented|allowed)|does not (?:yet )?support|cannot be used|can't be used|conflicts)(?: (?:with|for|on|when|by|in|together with))? (?P<when>[^\n;]{2,140}?)(?:\. |\.?$|\.?»)"
)
_ASKED = re.compile(r"\b(?:[Pp]lease|[Tt]ry|[Cc]onsider)\b")  # quoted by the caller
_FIELD = re.compile(
    r"validation errors? for (?P<cls>\w+) (?P<field>[\w.-]+) (?P<why>(?:Unexpected keyword|Extra inputs|Field required|Missing required|Input should)[^\n]{0,200})"
)


def hint(words: str) -> str:
    """The way out that the words of a refusal give; empty where they give none."""
    found = _FIELD.search(words)
    if found and not found["why"].startswith("Input should be '"):
        return _field(found["field"], found["why"])
    if listed := _LIST.search(words):
        return _choice(words, listed)
    if bound := _BOUND.search(words):
        far = f"{bound['b']} ({bound['y']})" if bound["y"] else bound["b"]
        return f"Change one of the two so that {bound['a']} {bound['op']} {far} holds: set --{bound['a'].replace('_', '-')} accordingly, or the other option."
    if _ASKED.search(words):
        return ""
    if only := _ONLY.search(words):
        return f"Fulfil the condition (only {only['when'].strip()}) or leave out the option behind «{only['what'].strip()}»."
    if clash := _NOT.search(words):
        return f"«{clash['what'].strip()}» and «{clash['when'].strip()}» do not go together in this version: leave out the option behind the one you need less, then start again; a newer release may allow it."
    return ""


def _field(name: str, why: str) -> str:
    if why.startswith(("Unexpected", "Extra")):
        return f"The key «{name}» does not exist in this version: correct its spelling or take it out of the JSON or command line (`--help` lists the keys)."
    if why.startswith(("Field required", "Missing")):
        return f"Add the key «{name}»: this version requires it."
    return f"Correct the value of --{name.replace('_', '-')}: {why.split(' [type=', maxsplit=1)[0]}."


def _choice(words: str, listed: re.Match[str]) -> str:
    """`Set it to one of …`, with the allowed value that is closest to the one given."""
    items = [i.strip(" `'\"") for i in re.split(r",| or ", listed["items"].split(" [type=")[0])]
    items = [i for i in items if re.fullmatch(r"[\w.:/+-]{1,60}", i)]
    if not items:
        return ""
    before = words[: listed.start()]
    after = re.search(r"input_value='([^']{1,60})'", words)
    given = (
        after[1]
        if after
        else next(iter(re.findall(r"[:'\"] ?([\w.+-]{2,60})['\"]?[ .(]*$|'([\w.+-]{2,60})'", before)), "")
    )
    name = given if isinstance(given, str) else next((g for g in given if g), "")
    near = difflib.get_close_matches(name.lower(), [i.lower() for i in items], 1, 0.6) if name else []
    close = f" («{name}» was given; «{near[0]}» is the closest)" if near and near[0] != name else ""
    return f"Set it to one of the values that this version knows: {', '.join(items[:20])}{close}. If the one you need is not listed, update the engine."
