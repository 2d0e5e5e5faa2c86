"""Unpickling without running code: a pickle is a program, and may here do little.

A pickle names objects, calls them, and sets what is inside them. Of what `slimlib.rl.harmless` lists it may name
all, call some, and fill some.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slimlib.rl.harmless import CALLED, CALLED_AS, FILLED, FILLED_AS, NAMES, Refused

CODE = ("cloudpickle", "dill", "types", "marshal")
"""Packages that a pickle names where it carries code."""
NEEDLESS = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)
"""Instructions that make or call something, and that no pickle of stable-baselines3 has."""


def unpickle(content: bytes, allow: Sequence[Any] = ()) -> Any:
    """The value in a pickle.

    Args:
        content: the pickle.
        allow: classes that it may make besides those listed, and functions that it may name.

    Raises:
        Refused: it holds something else; nothing of it was run.
        Exception: of any kind, if it is damaged.
    """
    deque(pickletools.genops(content), maxlen=0)  # fails where a length in it is more than there is
    return _Unpickler(content, allow).load()


class _Unpickler(pickle._Unpickler):
    """pickle's own, the one in Python, that looks before it calls or fills anything."""

    stack: list[Any]
    metastack: list[list[Any]]

    def __init__(self, content: bytes, allow: Sequence[Any]) -> None:
        super().__init__(io.BytesIO(content))
        classes = [each for each in allow if isinstance(each, type)]
        self._names = {(each.__module__, each.__qualname__): each for each in allow} | dict(NAMES)
        self._filled = (*FILLED, *classes)
        self._called = (*CALLED, *CALLED_AS.values(), *classes)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._names:
            return self._names[module, name]
        if module.partition(".")[0] in CODE:
            raise Refused("holds code: a function or class saved whole, as lambdas and those of a script are")
        raise Refused(f"refers to {f'{module}.{name}'[:100]!r}", name.rpartition(".")[2][:100])

    def may_call(self) -> None:
        called = self.stack[-2]
        if not _is_in(self._called, called):
            raise Refused(f"calls {_name_of(called)}")

    def may_make(self) -> None:
        made, arguments = self.stack[-2:]
        if not _is_in(self._called, made) and (arguments != () or not _is_in(self._filled, made)):
            raise Refused(f"makes {_name_of(made)}")

    def may_append(self) -> None:
        _check_collection(self.stack[-2], list, deque)

    def may_append_all(self) -> None:
        _check_collection(self.metastack[-1][-1], list, deque)

    def may_set_item(self) -> None:
        _check_collection(self.stack[-3], dict, OrderedDict, defaultdict)

    def may_set_items(self) -> None:
        _check_collection(self.metastack[-1][-1], dict, OrderedDict, defaultdict)

    def may_add(self) -> None:
        _check_collection(self.metastack[-1][-1], set)

    def refuse(self) -> None:
        raise Refused("has an instruction that no model needs")

    def fill(self) -> None:
        state = self.stack.pop()
        filled = self.stack[-1]
        own = next((fill for kind, fill in FILLED_AS.items() if isinstance(filled, kind)), None)
        if own is None and type(filled) not in self._filled:
            raise Refused(f"sets what is inside {_name_of(filled)}")
        (own or _set_attributes)(filled, state)


def _set_attributes(made: Any, state: Any) -> None:
    """As pickle does, but none may take the place of a method."""
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise Refused(f"sets {_name_of(made)} to something other than its attributes")
    for name in state:
        if name.startswith("__") or callable(getattr(type(made), name, None)):
            raise Refused(f"replaces {name[:100]!r} of {_name_of(made)}")
    if hasattr(type(made), "__setstate__"):
        made.__setstate__(state)
    else:
        vars(made).update(state)


def _check_collection(collection: Any, *types: type) -> None:
    if type(collection) not in types:
        raise Refused(f"adds items to {_name_of(collection)}")


def _is_in(known: Sequence[Any], value: Any) -> bool:
    return any(value is each for each in known)


def _name_of(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return repr(f"{named.__module__}.{named.__qualname__}"[:100])


def _checked(check: Callable[[_Unpickler], None], instruction: bytes) -> Callable[[Any], None]:
    run: Callable[[Any], None] = pickle._Unpickler.dispatch[instruction[0]]

    def checked(unpickler: Any) -> None:
        check(unpickler)
        run(unpickler)

    return checked


CHECKS: Mapping[bytes, Callable[[_Unpickler], None]] = {
    pickle.REDUCE: _Unpickler.may_call,
    pickle.NEWOBJ: _Unpickler.may_make,
    pickle.APPEND: _Unpickler.may_append,
    pickle.APPENDS: _Unpickler.may_append_all,
    pickle.SETITEM: _Unpickler.may_set_item,
    pickle.SETITEMS: _Unpickler.may_set_items,
    pickle.ADDITEMS: _Unpickler.may_add,
}
REPLACED: Mapping[bytes, Callable[[Any], None]] = {
    pickle.BUILD: _Unpickler.fill,
    **dict.fromkeys(NEEDLESS, _Unpickler.refuse),
    **{instruction: _checked(check, instruction) for instruction, check in CHECKS.items()},
}
_Unpickler.dispatch = pickle._Unpickler.dispatch | {instruction[0]: run for instruction, run in REPLACED.items()}
