"""Load state dicts that were saved under other names."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn


def rename_on_load(
    module: nn.Module, renames: Mapping[str, str], dropped: Mapping[str, str]
) -> None:
    """Let ``module.load_state_dict`` accept entries whose names begin with an older prefix.

    Args:
        module: The module whose own part of the state dict is renamed.
        renames: Old beginning of a name to the new one, both relative to the module.
        dropped: Names of old entries that are recomputed here, to the attribute that must have the
            same number of elements (an attribute that is ``None`` counts as one, an empty string
            skips the check).
    """
    # Not a local function: those cannot be pickled.
    module.register_load_state_dict_pre_hook(partial(_rename, renames, dropped))


def _rename(
    renames: Mapping[str, str],
    dropped: Mapping[str, str],
    module: nn.Module,
    state_dict: dict[str, Tensor],
    prefix: str,
    metadata: Any,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key[len(prefix) :]
        if name in dropped:
            value = state_dict.pop(key)
            errors.extend(_mismatch(module, key, value, dropped[name]))
            continue
        for old, new in renames.items():
            if name.startswith(old):
                state_dict[prefix + new + name[len(old) :]] = state_dict.pop(key)
                break


def _mismatch(module: nn.Module, key: str, value: Tensor, attribute: str) -> list[str]:
    if not attribute:
        return []
    ours = getattr(module, attribute)
    expected = 1 if ours is None else ours.numel()
    if value.numel() == expected:
        return []
    return [
        f'"{key}" has {value.numel()} elements where this module expects {expected}: it was saved '
        f"by a module built with other arguments (see {attribute})"
    ]
