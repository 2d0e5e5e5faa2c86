"""Unpickling without running code: a pickle is a program, and may here do little.

A pickle names objects, calls them, and sets what is inside them. It may do so with what an `Allowed` lists, and
nothing that is listed does more than hold values.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CODE = ("cloudpickle", "dill", "types", "marshal")
"""Packages that a pickle names where it carries code."""
NEEDLESS = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.PERSID),
)
"""Instructions that make or call something, and that no pickle of numbers or of stable-baselines3 has."""


class Refused(Exception):
    """What a pickle holds and may not.

    Args:
        what: "refers to 'os.system'", for example.
        name: that could be allowed; None where there is nothing to allow.
    """

    def __init__(self, what: str, name: str | None = None) -> None:
        super().__init__(what)
        self.name = name


@dataclass(frozen=True)
class Allowed:
    """What a pickle may do.

    Attributes:
        named: (module, name) -> what a pickle gets that asks for it.
        called: of these, what it may call with any arguments.
        filled: classes that it may make without their constructor, and set the attributes of.
        filled_by: class -> function of an instance and its state, which fills it in place of that.
    """

    named: Mapping[tuple[str, str], Any]
    called: Sequence[Any] = ()
    filled: Sequence[type] = ()
    filled_by: Mapping[type, Callable[[Any, Any], None]] = field(default_factory=dict)

    def __or__(self, other: Allowed) -> Allowed:
        return Allowed(
            {**self.named, **other.named},
            (*self.called, *other.called),
            (*self.filled, *other.filled),
            {**self.filled_by, **other.filled_by},
        )

    def and_own(self, allow: Sequence[Any]) -> Allowed:
        """Also classes, which may be made and filled, and functions, which may be named."""
        classes = [each for each in allow if isinstance(each, type)]
        return Allowed(_by_name(*allow), classes, classes) | self


def may_name(*objects: Any) -> Allowed:
    """What a pickle may name and nothing else."""
    return Allowed(_by_name(*objects))


def may_call(*objects: Any) -> Allowed:
    """What it may call with any arguments."""
    return Allowed(_by_name(*objects), called=objects)


def may_fill(*classes: type) -> Allowed:
    """What it may make empty, and then set the attributes of."""
    return Allowed(_by_name(*classes), filled=classes)


def calls_instead(functions: Mapping[tuple[str, str], Any]) -> Allowed:
    """(module, name) -> what is called in place of the function of that name."""
    return Allowed(functions, called=tuple(functions.values()))


def _by_name(*objects: Any) -> dict[tuple[str, str], Any]:
    return {(each.__module__, each.__qualname__): each for each in objects}


def unpickle(content: bytes, allowed: Allowed, *, encoding: str = "ASCII") -> Any:
    """The value in a pickle.

    Args:
        content: the pickle.
        allowed: what it may do.
        encoding: of the strings of Python 2; "bytes" leaves them as they are.

    Raises:
        Refused: it does something else; nothing of it was run.
        Exception: of any kind, if it is damaged.
    """
    check_lengths(content)
    return Unpickler(io.BytesIO(content), allowed, encoding=encoding).load()


def check_lengths(content: bytes) -> None:
    """Raise ValueError for a pickle with a length in it that is more than there is."""
    deque(pickletools.genops(content), maxlen=0)


class Unpickler(pickle._Unpickler):
    """pickle's own, the one in Python, that looks before it calls or fills anything."""

    stack: list[Any]
    metastack: list[list[Any]]

    def __init__(self, file: Any, allowed: Allowed, *, encoding: str = "ASCII") -> None:
        super().__init__(file, encoding=encoding)
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed.named:
            return self.allowed.named[module, name]
        if module.partition(".")[0] in CODE:
            raise Refused("holds code: a function or class saved whole, as lambdas and those of a script are")
        raise Refused(f"refers to {f'{module}.{name}'[:100]!r}", name.rpartition(".")[2][:100])

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("refers to what is outside of it")

    def may_call(self) -> None:
        called, arguments = self.stack[-2:]
        if not _is_in(self.allowed.called, called):
            raise Refused(f"calls {_name_of(called)}")
        if isinstance(arguments, tuple) and called is not range and any(isinstance(each, range) for each in arguments):
            raise Refused(f"counts a range out in a {_name_of(called)}")

    def may_make(self) -> None:
        made, arguments = self.stack[-2:]
        if not _is_in(self.allowed.called, made) and (arguments != () or not _is_in(self.allowed.filled, made)):
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
        raise Refused("has an instruction that nothing here needs")

    def fill(self) -> None:
        state = self.stack.pop()
        filled = self.stack[-1]
        own = next((fill for kind, fill in self.allowed.filled_by.items() if isinstance(filled, kind)), None)
        if own is None and type(filled) not in self.allowed.filled:
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


def _checked(check: Callable[[Unpickler], None], instruction: bytes) -> Callable[[Any], None]:
    run: Callable[[Any], None] = pickle._Unpickler.dispatch[instruction[0]]

    def checked(unpickler: Any) -> None:
        check(unpickler)
        run(unpickler)

    return checked


CHECKS: Mapping[bytes, Callable[[Unpickler], None]] = {
    pickle.REDUCE: Unpickler.may_call,
    pickle.NEWOBJ: Unpickler.may_make,
    pickle.APPEND: Unpickler.may_append,
    pickle.APPENDS: Unpickler.may_append_all,
    pickle.SETITEM: Unpickler.may_set_item,
    pickle.SETITEMS: Unpickler.may_set_items,
    pickle.ADDITEMS: Unpickler.may_add,
}
REPLACED: Mapping[bytes, Callable[[Any], None]] = {
    pickle.BUILD: Unpickler.fill,
    **dict.fromkeys(NEEDLESS, Unpickler.refuse),
    **{instruction: _checked(check, instruction) for instruction, check in CHECKS.items()},
}
Unpickler.dispatch = pickle._Unpickler.dispatch | {instruction[0]: run for instruction, run in REPLACED.items()}
