"""The MiniLM sentence encoder (a BERT) in NumPy, with every linear layer by `pc.linear`.

The same code runs float32, int8 and pruned int8: only the weights of the linear layers differ. The output of the last
layer is averaged over the tokens of each sentence and brought to length 1, so that the cosine of two sentences is a dot
product.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pycompress as pc

from . import DemoError

Floats = NDArray[np.float32]

PRUNED, BLOCK = 0.8, (1, 4)  # what `Encoder.pruned` takes out of the feed-forward layers


@dataclass
class Linear:
    """A linear layer: weight [outputs, inputs], float32, int8 or sparse int8, and float32 bias [outputs]."""

    weight: Floats | pc.Int8Weight | pc.BSRWeight
    bias: Floats
    activation: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes stored: weight, scales and bias."""
        return self.weight.nbytes + self.bias.nbytes

    def quantized(self) -> Linear:
        """The same layer with int8 weights, one scale for each output."""
        if not isinstance(self.weight, np.ndarray):
            return self
        return replace(self, weight=pc.Int8Weight.from_float(self.weight))

    def pruned(self) -> Linear:
        """The same layer without the part PRUNED of its blocks, those of the least L2 norm in each output, in int8."""
        assert isinstance(self.weight, np.ndarray)
        w = pc.prune(self.weight, PRUNED, "block", block=BLOCK, per="output")
        return replace(self, weight=pc.BSRWeight.from_dense(w, BLOCK, bits=8))


@dataclass
class Norm:
    """Layer normalization over the last axis, in place."""

    gain: Floats
    shift: Floats
    epsilon: float

    def __call__(self, x: Floats) -> Floats:
        x -= x.mean(axis=-1, keepdims=True)
        variance = np.einsum("ij,ij->i", x, x) / x.shape[-1]
        x *= (1 / np.sqrt(variance + self.epsilon))[:, None]
        x *= self.gain
        x += self.shift
        return x


@dataclass
class Layer:
    """One of the encoder's layers; query, key and value are one linear layer with three times the outputs."""

    qkv: Linear
    attention_out: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    norm: Norm

    def linears(self) -> tuple[Linear, ...]:
        return self.qkv, self.attention_out, self.up, self.down

    def quantized(self) -> Layer:
        qkv, attention_out, up, down = (linear.quantized() for linear in self.linears())
        return replace(self, qkv=qkv, attention_out=attention_out, up=up, down=down)

    def pruned(self) -> Layer:
        """int8, and the two feed-forward layers sparse."""
        return replace(self.quantized(), up=self.up.pruned(), down=self.down.pruned())


@dataclass
class Encoder:
    """The encoder: `encoder(ids, mask)` is a float32 [sentences, hidden], each row of length 1."""

    words: Floats  # [vocabulary, hidden]
    positions: Floats  # [positions, hidden], with the embedding of the only segment added
    norm: Norm
    layers: list[Layer]
    heads: int
    linear_seconds: float = field(default=0.0, compare=False)  # spent in linear layers since it was last set

    @classmethod
    def load(cls, directory: Path) -> Encoder:
        """The float32 encoder from config.json and model.safetensors of `directory`; DemoError when they do not fit."""
        from safetensors.numpy import load_file

        try:
            config = json.loads((directory / "config.json").read_text("utf-8"))
            return _build(config, load_file(directory / "model.safetensors"))
        except OSError as error:
            raise DemoError(f"{directory} cannot be read: {error}") from error
        except Exception as error:  # safetensors has its own exception type; a broken file shows itself in many ways
            raise DemoError(f"{directory} holds no BERT encoder that the demo can run: {_reason(error)}") from error

    @property
    def linears(self) -> list[Linear]:
        """Every linear layer that an embedding uses: that of BERT's pooler is not among them."""
        return [linear for layer in self.layers for linear in layer.linears()]

    @property
    def linear_layers(self) -> int:
        """How many of the model's linear layers these are: query, key and value count one each."""
        return sum(3 + len(layer.linears()) - 1 for layer in self.layers)

    def quantized(self) -> Encoder:
        """The same encoder with int8 weights in the linear layers, all else shared."""
        return replace(self, layers=[layer.quantized() for layer in self.layers], linear_seconds=0.0)

    def pruned(self) -> Encoder:
        """The same encoder in int8, with pruned feed-forward layers, which are not retrained."""
        return replace(self, layers=[layer.pruned() for layer in self.layers], linear_seconds=0.0)

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.bool_], *, num_threads: int | None = None) -> Floats:
        """Embed token `ids` [sentences, length]; `mask`, of the same shape, is False on padding."""
        length = ids.shape[1]
        x = self.norm((self.words[ids] + self.positions[:length]).reshape(ids.size, -1))
        # Nothing to add where no sentence of the batch is padded.
        blocked = None if mask.all() else np.where(mask, np.float32(0), np.float32(-np.inf))[:, None, None, :]
        for layer in self.layers:
            qkv = self._linear(x, layer.qkv, num_threads).reshape(*ids.shape, 3, self.heads, -1)
            context = self._linear(_attention(qkv, blocked), layer.attention_out, num_threads)
            context += x
            x = layer.attention_norm(context)
            y = self._linear(self._linear(x, layer.up, num_threads), layer.down, num_threads)
            y += x
            x = layer.norm(y)
        weights = mask / mask.sum(axis=1, keepdims=True, dtype=np.float32)
        mean: Floats = np.matmul(weights[:, None, :].astype(np.float32), x.reshape(*ids.shape, -1))[:, 0]
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        return mean

    def _linear(self, x: Floats, layer: Linear, num_threads: int | None) -> Floats:
        start = time.perf_counter()
        y: Floats = pc.linear(x, layer.weight, layer.bias, activation=layer.activation, num_threads=num_threads)
        self.linear_seconds += time.perf_counter() - start
        return y


def _attention(qkv: Floats, blocked: Floats | None) -> Floats:
    """qkv [sentences, length, 3, heads, size] and blocked [sentences, 1, 1, length] give [sentences * length, hidden].

    Everything is float32; `blocked` is added to the scores of each query: -inf hides a key.
    """
    sentences, length, _, heads, size = qkv.shape
    query, key, value = qkv.transpose(2, 0, 3, 1, 4)
    scores = np.matmul(query, key.swapaxes(-1, -2))
    scores *= np.float32(size**-0.5)
    if blocked is not None:
        scores += blocked
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    context = np.matmul(scores, value)
    by_token: Floats = context.swapaxes(1, 2).reshape(sentences * length, heads * size)
    return by_token


def _build(config: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Encoder:
    for name, only in ("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute"):
        if config.get(name, only) != only:
            raise ValueError(f"{name} in config.json is {config[name]!r}, and the demo knows only {only!r}")
    hidden, inner, heads = (config[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads"))
    if hidden % heads:
        raise ValueError(f"{heads} heads do not divide a hidden size of {hidden}")

    def tensor(name: str, *shape: int) -> Floats:
        if name not in tensors:
            raise ValueError(f"model.safetensors has no tensor {name!r}")
        if tensors[name].shape != shape:
            raise ValueError(f"tensor {name!r} is {tensors[name].shape}, and config.json asks for {shape}")
        return np.ascontiguousarray(tensors[name], np.float32)

    def norm(name: str) -> Norm:
        return Norm(tensor(f"{name}.weight", hidden), tensor(f"{name}.bias", hidden), config["layer_norm_eps"])

    def linear(name: str, outputs: int, inputs: int, activation: str | None = None) -> Linear:
        return Linear(tensor(f"{name}.weight", outputs, inputs), tensor(f"{name}.bias", outputs), activation)

    layers = []
    for i in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{i}"
        parts = [linear(f"{name}.attention.self.{part}", hidden, hidden) for part in ("query", "key", "value")]
        layers.append(
            Layer(
                qkv=Linear(np.concatenate([p.weight for p in parts]), np.concatenate([p.bias for p in parts])),
                attention_out=linear(f"{name}.attention.output.dense", hidden, hidden),
                attention_norm=norm(f"{name}.attention.output.LayerNorm"),
                up=linear(f"{name}.intermediate.dense", inner, hidden, "gelu"),
                down=linear(f"{name}.output.dense", hidden, inner),
                norm=norm(f"{name}.output.LayerNorm"),
            )
        )
    segments = tensor("embeddings.token_type_embeddings.weight", config["type_vocab_size"], hidden)
    positions = tensor("embeddings.position_embeddings.weight", config["max_position_embeddings"], hidden)
    return Encoder(
        words=tensor("embeddings.word_embeddings.weight", config["vocab_size"], hidden),
        positions=positions + segments[0],
        norm=norm("embeddings.LayerNorm"),
        layers=layers,
        heads=heads,
    )


def tokenize(directory: Path, sentences: list[str], longest: int) -> list[list[int]]:
    """The token ids of each sentence by tokenizer.json of `directory`, cut to `longest` tokens."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # tokenizers raises nothing more special
        raise DemoError(f"{directory / 'tokenizer.json'} cannot be read: {_reason(error)}") from error
    tokenizer.no_padding()  # the file asks for a fixed length, where a batch needs only that of its longest sentence
    tokenizer.enable_truncation(longest)
    return [encoding.ids for encoding in tokenizer.encode_batch(sentences)]


@dataclass(frozen=True)
class Batch:
    """Sentences of similar length: which they are [sentences], ids and mask [sentences, length]."""

    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]


def batches(tokens: list[list[int]], size: int) -> list[Batch]:
    """Sort by length, longest first, and cut into batches of at most `size` tokens, padding included.

    Each batch is padded to its longest sentence; a sentence of more than `size` tokens is a batch of its own.
    """
    order = np.array(sorted(range(len(tokens)), key=lambda row: -len(tokens[row])), np.int64)
    cut = []
    while order.size:
        longest = len(tokens[order[0]])
        rows, order = np.split(order, [max(1, size // longest)])
        mask = np.arange(longest) < np.array([len(tokens[row]) for row in rows])[:, None]
        ids = np.zeros(mask.shape, np.int64)  # the mask hides what stands in the padding
        ids[mask] = np.concatenate([tokens[row] for row in rows])
        cut.append(Batch(rows, ids, mask))
    return cut


def _reason(error: Exception) -> str:
    text = f"no {error} in config.json" if isinstance(error, KeyError) else str(error)
    return text.partition("\n")[0]
