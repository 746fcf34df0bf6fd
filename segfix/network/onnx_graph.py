"""The graph in an ONNX file, to be taken apart.

Of the messages of protobuf that it consists of, no more is read than the names of values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

MODEL_GRAPH = 7
NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = 1, 5, 11, 12, 13
NODE_INPUT, NODE_OUTPUT, NODE_KIND, TENSOR_NAME = 1, 2, 4, 8
VALUE_NAME, VALUE_TYPE, TENSOR_TYPE, ELEMENT_TYPE = 1, 2, 1, 1
"""Numbers of fields."""
ELEMENT_TYPES = {
    "float": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "double": 11,
}
WIRE_SIZES = {1: 8, 5: 4}
"""Bytes of values that aren't numbers of any length, or as long as they say."""
LONGEST_NUMBER = 10


class Node(NamedTuple):
    """A node: its kind, the names of its values, and its field in the file."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    field: memoryview


class OnnxGraph:
    """Values of an ONNX file, and the nodes that compute them.

    Args:
        content: Of the file.

    Attributes:
        nodes: In an order in which they can be computed.
        inputs: Fields of the inputs by their names.
        outputs: Fields of the outputs by their names.

    Raises:
        ValueError: The file is broken.
    """

    def __init__(self, content: bytes) -> None:
        self.nodes: list[Node] = []
        self.inputs: dict[str, memoryview] = {}
        self.outputs: dict[str, memoryview] = {}
        self._weights: dict[str, memoryview] = {}
        self._model: list[memoryview] = []
        self._rest: list[memoryview] = []
        for number, value, field in read_fields(memoryview(content)):
            if number == MODEL_GRAPH:
                self._read(value)
            else:
                self._model.append(field)

    def _read(self, graph: memoryview) -> None:
        named = {
            INITIALIZER: (self._weights, TENSOR_NAME),
            INPUT: (self.inputs, VALUE_NAME),
            OUTPUT: (self.outputs, VALUE_NAME),
        }
        for number, value, field in read_fields(graph):
            if number == NODE:
                self.nodes.append(read_node(value, field))
            elif number in named:
                fields, place = named[number]
                name = next((text for key, text, _ in read_fields(value) if key == place), b"")
                fields[str(name, "utf-8")] = field
            elif number != VALUE_INFO:
                self._rest.append(field)

    def find_dependent(self, name: str) -> set[str]:
        """Find the values that depend on a value, itself among them."""
        found = {name}
        for node in self.nodes:
            if not found.isdisjoint(node.inputs):
                found.update(node.outputs)
        return found

    def find_shared(self, first: str, second: str) -> list[str]:
        """Find what depends on one input alone, and is all that the rest needs of it.

        Args:
            first: Name of this input.
            second: Of the other.

        Returns:
            Names of values.
        """
        late, wanted = self.find_dependent(second) | self.outputs.keys(), set[str]()
        for node in reversed(self.nodes):
            # What is enlarged takes more memory than what it was made of.
            grows = node.kind == "Resize" and not wanted.isdisjoint(node.outputs)
            if grows or not late.isdisjoint(node.outputs):
                late.update(node.outputs)
                wanted.update(node.inputs)
        return sorted((wanted & self.find_dependent(first)) - late)

    def extract(self, outputs: Iterable[str], given: Mapping[str, str] | None = None) -> bytes:
        """Write the part of the graph that computes some values, as an ONNX file.

        Args:
            outputs: Their names.
            given: Values that become inputs, and their types as onnxruntime calls them.
        """
        outputs, given = [*outputs], given or {}
        needed, nodes = {*outputs}, list[memoryview]()
        for node in reversed(self.nodes):
            if not (needed - given.keys()).isdisjoint(node.outputs):
                needed.update(node.inputs)
                nodes.append(node.field)
        fields: list[bytes | memoryview] = [*reversed(nodes), *self._rest]
        fields += [field for name, field in self._weights.items() if name in needed]
        fields += [field for name, field in self.inputs.items() if name in needed - given.keys()]
        fields += [describe_input(name, kind) for name, kind in given.items() if name in needed]
        fields += [
            self.outputs.get(name) or write_field(OUTPUT, write_field(VALUE_NAME, name.encode()))
            for name in outputs
        ]
        return b"".join((*self._model, write_field(MODEL_GRAPH, b"".join(fields))))


def read_node(message: memoryview, field: memoryview) -> Node:
    """Read a node."""
    texts: dict[int, list[str]] = {NODE_INPUT: [], NODE_OUTPUT: [], NODE_KIND: []}
    for number, value, _ in read_fields(message):
        if number in texts:
            texts[number].append(str(value, "utf-8"))
    return Node("".join(texts[NODE_KIND]), texts[NODE_INPUT], texts[NODE_OUTPUT], field)


def describe_input(name: str, kind: str) -> bytes:
    """Write the field of an input of any shape; `kind` is such as "tensor(float)"."""
    element = ELEMENT_TYPES[kind.removeprefix("tensor(").removesuffix(")")]
    tensor = write_number(ELEMENT_TYPE << 3) + write_number(element)
    described = write_field(VALUE_TYPE, write_field(TENSOR_TYPE, tensor))
    return write_field(INPUT, write_field(VALUE_NAME, name.encode()) + described)


def read_fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Read the fields of a message of protobuf: the number, the value, and all of each.

    Raises:
        ValueError: It is broken.
    """
    place, size = 0, len(message)
    while place < size:
        start = place
        tag, place = read_number(message, place)
        kind = tag & 7
        if kind == 2:
            length, place = read_number(message, place)
            end = place + length
        elif kind == 0:
            _, end = read_number(message, place)
        else:
            end = place + WIRE_SIZES.get(kind, size)
        if end > size:
            raise ValueError("a broken message of protobuf")
        yield tag >> 3, message[place:end], message[start:end]
        place = end


def read_number(message: memoryview, place: int) -> tuple[int, int]:
    """Read a number of a message, seven bits in a byte, and tell where it ends."""
    number = 0
    for count, byte in enumerate(message[place : place + LONGEST_NUMBER]):
        number |= (byte & 127) << 7 * count
        if byte < 128:
            return number, place + count + 1
    raise ValueError("a broken message of protobuf")


def write_field(number: int, value: bytes) -> bytes:
    """Write a field."""
    return write_number(number << 3 | 2) + write_number(len(value)) + value


def write_number(number: int) -> bytes:
    """Write a number, see `read_number`."""
    groups = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])
