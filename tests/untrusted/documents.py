"""Documents of names and values that are almost right: somewhere inside a good one stands something else."""

import copy
import random

NESTED = "nested"  # stands for lists in lists, deeper than Python's stack
STRANGE = (
    None, True, False, 0, 1, -1, 2, 3, 1e-4, 0.5, -0.5, 1e308, 2**31, 2**63, 10**30, -(10**30), float("nan"),
    float("inf"), "", "a", "../../x", "/etc/passwd", "\x00", "\ud800", "\x1b[31m", "1", "1e3", "nan", "auto",
    "relative", "x" * 1000, "{class_path: os.system}", "https://a.invalid/b", [], {}, [[]], [None], [0, 0, 0, 0],
    [1, 2], [1e308] * 4, ["a", "a"], {"class_path": "os.system", "init_args": {"command": "true"}}, {"": 0},
    {"a": {"b": {"c": [1]}}}, {"id": 1}, NESTED,
)  # fmt: skip


def strange(good, number, seed=0, values=STRANGE):
    """The ``number``-th document made of good ones: some of its values, names or entries are others, gone or double."""
    if number < len(good):
        return good[number]
    draw = random.Random(f"{seed} {number}")
    document = copy.deepcopy(draw.choice(good))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        holder = draw.choice(list(_holders(document)) or [{}])
        if holder:
            _change(holder, draw, values)
    return document


def as_text(document, dump):
    """The document as ``dump`` writes it, with what is nested put in."""
    return dump(document).replace(f'"{NESTED}"', "[" * 100_000)


def _holders(value):
    if isinstance(value, (dict, list)):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _holders(item)


def _change(holder, draw, values):
    key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    match draw.choice(("set", "set", "set", "delete", "double", "swap")):
        case "set":
            holder[key] = copy.deepcopy(draw.choice(values))
        case "delete":
            del holder[key]
        case "double" if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        case "double":
            holder[f"{key}{draw.choice(('', '_', '.x'))}"] = copy.deepcopy(holder[key])
        case "swap":
            other = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            holder[key], holder[other] = holder[other], holder[key]
