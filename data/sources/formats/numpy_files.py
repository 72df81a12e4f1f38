"""Read what np.save or pickle.dump made of a dictionary, without unpickling: nothing in the file is
ever called.

Such a file is a pickle, and unpickling runs whatever the file asks for. Here the few instructions
that describe dictionaries, lists, numbers, texts and arrays are followed by hand, and every other
one is refused. Large arrays are not read but mapped, so gigabytes cost no memory.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np

from data.errors import InputError

MAPPED_BYTES = 1 << 20
ARRAY_MAKERS = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
SCALAR_MAKERS = {"numpy.core.multiarray scalar", "numpy._core.multiarray scalar"}
KNOWN = {*ARRAY_MAKERS, *SCALAR_MAKERS, "numpy ndarray", "numpy dtype"}
PLAIN_DTYPE = re.compile(r"[biufUSO]\d*")
MARK = object()
DAMAGED = (ValueError, KeyError, IndexError, TypeError, AttributeError, TokenError)
"""What a damaged file makes its reader raise; the last, NumPy's reader of headers."""


@dataclass(frozen=True)
class Block:
    """Bytes left where they are in the file."""

    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


class Named:
    """A name of NumPy's that the file mentions; looked up nowhere."""

    def __init__(self, name: str):
        self.name = name


class Array:
    """An array or a type of numbers, while the file describes it."""

    def __init__(self, dtype: np.dtype | None = None):
        self.dtype, self.state = dtype, None


def read_dictionary(path: Path) -> dict:
    """The dictionary in `path`; its large arrays are read-only memory maps.

    Raises InputError for a file that is cut, is no such dictionary, or asks to run anything.
    """
    try:
        with open(path, "rb") as file:
            # Some are written by pickle.dump, in spite of their ending: no header comes first.
            headless = file.read(1) == pickle.PROTO
            file.seek(0)
            if not headless:
                _skip_header(file)
            value = _Follower(path, file).run()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", "check the path") from None
    except (*DAMAGED, OSError) as error:
        raise InputError(
            f"{path}: not a dictionary of arrays as np.save or pickle.dump writes it "
            f"({error or type(error).__name__})",
            "the file is damaged, or is another one: download it again from where it was published",
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no dictionary", "check that it is the right file")
    return value


def _skip_header(file) -> None:
    version = np.lib.format.read_magic(file)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = reader(file)
    if shape != () or dtype != np.dtype(object):
        raise ValueError("it holds an array")


class _LazyFile:
    """Large pieces are noted, not read."""

    def __init__(self, file, size: int):
        self.file, self.size = file, size

    def read(self, count: int):
        if count < MAPPED_BYTES:
            return self.file.read(count)
        offset = self.file.tell()
        if offset + count > self.size:
            raise ValueError("it is cut short")
        self.file.seek(count, 1)
        return Block(offset, count)

    def readline(self) -> bytes:
        return self.file.readline()

    def tell(self) -> int:
        return self.file.tell()


class _Follower:
    """The stack machine that such a file is written for, without its power to call."""

    def __init__(self, path: Path, file):
        self.path = path
        self.file = _LazyFile(file, path.stat().st_size)
        self.stack: list = []
        self.memo: dict[int, object] = {}

    def run(self):
        for opcode, argument, _ in pickletools.genops(self.file):
            if opcode.name == "STOP":
                return self._finished(self.stack[-1])
            self._step(opcode.name, argument)
        raise ValueError("it is cut short")

    def _step(self, name: str, argument) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            stack.append(MARK)
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("TUPLE", "SETITEMS", "APPENDS"):
            items = self._since_mark()
            if name == "TUPLE":
                stack.append(tuple(items))
            elif name == "APPENDS":
                stack[-1].extend(map(self._finished, items))
            else:
                values = map(self._finished, items[1::2])
                stack[-1].update(zip(items[::2], values, strict=True))
        elif name in ("SETITEM", "APPEND"):
            value = self._finished(stack.pop())
            if name == "APPEND":
                stack[-1].append(value)
            else:
                key = stack.pop()
                stack[-1][key] = value
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                argument = f"{module} {attribute}"
            if argument not in KNOWN:
                raise ValueError(f"it asks to call {str(argument)[:60].replace(' ', '.')}")
            stack.append(Named(argument))
        elif name == "REDUCE":
            arguments, maker = stack.pop(), stack.pop()
            stack.append(self._made(maker, arguments))
        elif name == "BUILD":
            state = stack.pop()
            self._built(stack[-1], state)
        elif isinstance(argument, (int, float, str, bytes, Block)) and "GET" not in name:
            stack.append(argument)  # the many ways to write a number, a text or bytes
        else:
            raise ValueError(f"it holds an instruction {name}")

    def _since_mark(self) -> list:
        at = len(self.stack) - 1 - self.stack[::-1].index(MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _made(self, maker, arguments: tuple):
        name = maker.name
        if name in ARRAY_MAKERS:
            return Array()
        if name == "numpy dtype":
            if not PLAIN_DTYPE.fullmatch(arguments[0]):
                raise ValueError(f"it holds numbers of type {arguments[0]!r}")
            return Array(np.dtype(arguments[0]))
        if name in SCALAR_MAKERS:
            return np.frombuffer(arguments[1], arguments[0].dtype)[0].item()
        raise ValueError(f"it asks to call {name}")

    def _built(self, array: Array, state: tuple) -> None:
        if array.dtype is not None:  # of a type: only its byte order
            order = state[1]
            if order not in ("<", ">", "|", "="):
                raise ValueError("it holds numbers in an unknown order of bytes")
            array.dtype = array.dtype.newbyteorder(order)
        else:
            array.state = state

    def _finished(self, value):
        """Arrays made; everything else as it is."""
        if not isinstance(value, Array):
            return value
        _, shape, kind, by_column, content = value.state
        if kind.dtype == np.dtype(object):
            if shape == ():
                return self._finished(content[0])
            made = np.empty(len(content), object)
            made[:] = [self._finished(entry) for entry in content]
            return made.reshape(shape, order="F" if by_column else "C")
        order = "F" if by_column else "C"
        if isinstance(content, Block):
            if int(np.prod(shape)) * kind.dtype.itemsize != content.length:
                raise ValueError("an array's shape and size differ")
            return np.memmap(self.path, kind.dtype, "r", content.offset, shape, order)
        return np.frombuffer(content, kind.dtype).reshape(shape, order=order)
