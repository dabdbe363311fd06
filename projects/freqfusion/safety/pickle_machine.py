"""Follow a pickle without doing what it says.

A pickle is a program for a machine with a stack, and may call whatever it can name. This machine
has the stack, but where the program imports, calls or restores something, it only notes it (see
``pickle_tree``). ``pickle_instructions`` reads them within bounds; here the depth and the memo have
theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

from freqfusion.safety.errors import DamagedError, RefusedError
from freqfusion.safety.extent import check_extent
from freqfusion.safety.pickle_instructions import COUNTED, OPCODES, Instructions, damaged
from freqfusion.safety.pickle_tree import Call, Name, Outside, children

_MOST_PARTS = 20_000_000
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEYS = (str, int, float, bool, bytes, type(None))
_SET = Name("builtins", "set")
_FROZENSET = Name("builtins", "frozenset")
# What a pickle has made itself, in place of a name.
_COMPUTED = Name("(made by the file)", "function")
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class Machine:
    """Reads one pickle from where a file stands, and leaves the file behind its end.

    Args:
        file: To be read, with ``seek``.
        end: The pickle ends before this place.

    ``names`` has everything that the pickle would import, in order, also where it is damaged.
    """

    def __init__(self, file: BinaryIO, end: int) -> None:
        self.names: dict[Name, None] = {}
        self._instructions = Instructions(file, end)
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The tree.

        Raises:
            RefusedError: for what would take more memory or time than its length.
            DamagedError: for what is no whole pickle.
        """
        try:
            while (opcode := self._instructions.next()) != "STOP":
                self._step(opcode)
            self._instructions.check_end()
            tree = self._stack.pop()
            check_extent(tree, children, most=_MOST_PARTS)
        except (RefusedError, DamagedError):
            raise
        except _DAMAGE as error:
            raise damaged(_shortly(error)) from error
        return tree

    def _step(self, opcode: str) -> None:
        push = self._stack.append
        if opcode in COUNTED:
            push(self._instructions.counted(opcode))
        elif opcode in _VALUES:
            push(_VALUES[opcode])
        elif opcode in _TUPLES:
            push(tuple(self._pop(_TUPLES[opcode])))
        elif opcode in _METHODS:
            _METHODS[opcode](self)
        else:
            self._other(opcode)

    def _other(self, opcode: str) -> None:
        """What has an argument and no more than that: numbers, texts by lines, places to go on."""
        argument = self._instructions.argument(opcode)
        if opcode in ("PROTO", "FRAME"):
            return
        if opcode.endswith("PUT"):
            self._remember(int(argument))
        elif opcode.endswith("GET"):
            self._stack.append(self._memo[int(argument)])
        elif opcode in ("GLOBAL", "INST"):
            name = self._name(*str(argument).split(" ", 1))
            value = name if opcode == "GLOBAL" else Call(name, tuple(self._pop_mark()))
            self._stack.append(value)
        elif opcode == "PERSID":
            self._stack.append(Outside(argument))
        elif opcode.startswith(("EXT", "NEXT_BUFFER", "READONLY_BUFFER")):
            raise RefusedError("needs things that are registered elsewhere, so it is not read")
        else:
            self._stack.append(argument)

    def _name(self, module: Any, name: Any) -> Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise damaged("an import without a name")
        found = Name(module, name)
        self.names[found] = None
        return found

    def _pop(self, count: int) -> list[Any]:
        if count > len(self._stack):
            raise damaged("something is missing")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _remember(self, place: int) -> None:
        # Python's own reader takes memory for all the places below.
        if not 0 <= place <= self._instructions.steps:
            raise RefusedError(f"keeps something at place {place}, far behind all others")
        self._memo[place] = self._stack[-1]

    def _do_memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _do_mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _do_pop(self) -> None:
        # Python's takes a mark away where there is nothing on it.
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _do_pop_mark(self) -> None:
        self._pop_mark()

    def _do_dup(self) -> None:
        self._stack.append(self._stack[-1])

    def _do_tuple(self) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _do_empty_list(self) -> None:
        self._stack.append([])

    def _do_list(self) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    def _do_empty_dict(self) -> None:
        self._stack.append({})

    def _do_dict(self) -> None:
        items = self._pop_mark()
        self._stack.append({})
        self._set_pairs(items)

    def _do_empty_set(self) -> None:
        self._stack.append(Call(_SET, ()))

    def _do_frozenset(self) -> None:
        items = self._pop_mark()
        self._stack.append(Call(_FROZENSET, (items,)))

    def _do_append(self) -> None:
        self._extend(self._pop(1))

    def _do_appends(self) -> None:
        self._extend(self._pop_mark())

    _do_additems = _do_appends

    def _do_setitem(self) -> None:
        self._set_pairs(self._pop(2))

    def _do_setitems(self) -> None:
        self._set_pairs(self._pop_mark())

    def _do_stack_global(self) -> None:
        self._stack.append(self._name(*self._pop(2)))

    def _do_binpersid(self) -> None:
        self._stack.append(Outside(self._pop(1)[0]))

    def _do_reduce(self) -> None:
        function, arguments = self._pop(2)
        self._call(function, arguments)

    _do_newobj = _do_reduce

    def _do_newobj_ex(self) -> None:
        function, arguments, named = self._pop(3)
        self._call(function, (*arguments, named))

    def _do_obj(self) -> None:
        function, *arguments = self._pop_mark()
        self._call(function, tuple(arguments))

    def _call(self, function: Any, arguments: Any) -> None:
        self._stack.append(Call(function if isinstance(function, Name) else _COMPUTED, arguments))

    def _do_build(self) -> None:
        state = self._pop(1)[0]
        if not isinstance(self._stack[-1], Call):
            raise RefusedError("changes something that it has not made")
        if self._stack[-1].state is not None:
            raise RefusedError("restores something a second time")
        self._stack[-1].state = state

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list | Call):
            raise damaged("no list to append to")
        (target.items if isinstance(target, Call) else target).extend(items)

    def _set_pairs(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict | Call):
            raise damaged("no dict to put into")
        pairs = target.pairs if isinstance(target, Call) else target
        for name, value in zip(items[::2], items[1::2], strict=True):
            # Others could take forever to be hashed, or run out of stack.
            if not isinstance(name, _KEYS):
                raise RefusedError("has a dict whose keys are neither texts nor numbers")
            pairs[name] = value


_METHODS: dict[str, Callable[[Machine], None]] = {
    opcode: vars(Machine)[f"_do_{opcode.lower()}"]
    for opcode in OPCODES.values()
    if f"_do_{opcode.lower()}" in vars(Machine)
}


def _shortly(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."
