"""Rename the entries of a state dict by rules that must account for every one of them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

State = Mapping[str, Tensor]
NewName = Callable[[re.Match[str]], str]
Settings = dict[str, object]
_SHOWN = 20
# Statistics of ImageNet, in the order of the channels, times 255.
RGB_INPUT: Settings = {
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}


@dataclass(frozen=True)
class Rule:
    """What happens to the names that a pattern matches as a whole.

    Args:
        label: What the entries are, for the report.
        pattern: Regular expression of the names.
        new_name: The name here, from the match; None drops the entry.
    """

    label: str
    pattern: str
    new_name: NewName | None = None


@dataclass(frozen=True)
class Conversion:
    """The renamed state dict, and what became of the names of the old one."""

    state: dict[str, Tensor] = field(default_factory=dict)
    mapped: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)

    def __or__(self, other: "Conversion") -> "Conversion":
        """Both conversions, of different entries of one state dict."""
        check_distinct([*self.state, *other.state])
        return Conversion(
            self.state | other.state, self.mapped | other.mapped, self.dropped | other.dropped
        )


def convert(state: State, rules: Sequence[Rule]) -> Conversion:
    """Apply to each entry the first rule that matches its name.

    Raises:
        ValueError: if an entry has no rule, or two entries would get one name.
    """
    result = Conversion()
    unknown, new_names = [], []
    for name, value in state.items():
        rule, match = _find(rules, name)
        if rule is None or match is None:
            unknown.append(name)
        elif rule.new_name is None:
            result.dropped.setdefault(rule.label, []).append(name)
        else:
            new_names.append(rule.new_name(match))
            result.state[new_names[-1]] = value
            result.mapped.setdefault(rule.label, []).append(name)
    if unknown:
        raise ValueError(f"no rule for {len(unknown)} names: {shorten(unknown)}")
    check_distinct(new_names)
    return result


def check_distinct(names: Sequence[str]) -> None:
    """Refuse a list in which a name occurs twice."""
    double = sorted(name for name, count in Counter(names).items() if count > 1)
    if double:
        raise ValueError(f"several entries would become one: {shorten(double)}")


def shorten(names: Sequence[str]) -> str:
    """The names in one line, the first ones where there are many."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f", and {rest} more" if rest > 0 else "")


def choice(names: Iterable[str]) -> str:
    """A regular expression that matches one of several words."""
    return f"(?:{'|'.join(map(re.escape, names))})"


def count_layers(state: State, beginning: str) -> int:
    """One more than the highest number of a layer; a gap is found later as missing weights."""
    pattern = re.compile(rf"{re.escape(beginning)}(\d+)\.")
    return max((int(match[1]) + 1 for match in map(pattern.match, state) if match), default=0)


def needed_weight(state: State, name: str, model: str) -> Tensor:
    """A weight that every ``model`` has; ValueError if it is missing."""
    if name not in state:
        raise ValueError(f"the weight {name} is missing, which every {model} has")
    return state[name]


def _find(rules: Sequence[Rule], name: str) -> tuple[Rule | None, re.Match[str] | None]:
    for rule in rules:
        match = re.fullmatch(rule.pattern, name)
        if match:
            return rule, match
    return None, None
