"""The MiniLM sentence encoder (a BERT), with every linear layer by `pc.linear` and the rest in NumPy and Numba.

The same code runs float32 and what recipes make of it: only the weights of the linear layers differ. The output of the
last layer is averaged over the tokens of each sentence and brought to length 1, so that the cosine of two sentences is
a dot product.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pycompress as pc
from pycompress.weights import Weight

from . import DemoError, fused

Floats = NDArray[np.float32]

# The linear layers of a layer, in their order; query, key and value are one.
PARTS = ("attention.self.qkv", "attention.output.dense", "intermediate.dense", "output.dense")


@dataclass
class Linear:
    """A linear layer: the weight [outputs, inputs], float32 or compressed, and float32 bias [outputs]."""

    weight: Floats | Weight
    bias: Floats
    activation: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes stored: weight, scales and bias."""
        return self.weight.nbytes + self.bias.nbytes


@dataclass
class Norm:
    """Layer normalization over the last axis of a sum x + y, in place of x."""

    gain: Floats
    shift: Floats
    epsilon: float

    def __call__(self, x: Floats, y: Floats) -> Floats:
        fused.add_norm(x, y, self.gain, self.shift, np.float32(self.epsilon))
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

    def weights(self) -> dict[str, Any]:
        """The weights of the linear layers, by the names that recipes know them by."""
        return {name: linear.weight for name, linear in zip(self._names(), self.linears, strict=True)}

    def _names(self) -> list[str]:
        return [f"encoder.layer.{i}.{part}.weight" for i in range(len(self.layers)) for part in PARTS]

    def with_weights(self, weights: Mapping[str, Any]) -> Encoder:
        """The same encoder with these in its linear layers, all else shared. Arrays are packed once, as weights are."""
        found = (weights[name] for name in self._names())
        each = iter([pc.Float32Weight.from_float(w) if isinstance(w, np.ndarray) else w for w in found])
        layers = [
            replace(
                layer,
                qkv=replace(layer.qkv, weight=next(each)),
                attention_out=replace(layer.attention_out, weight=next(each)),
                up=replace(layer.up, weight=next(each)),
                down=replace(layer.down, weight=next(each)),
            )
            for layer in self.layers
        ]
        return replace(self, layers=layers, linear_seconds=0.0)

    def calibration(self, batches: Sequence[Batch]) -> Callable[[Callable[..., Floats]], None]:
        """These batches as the `calibration` of `pc.compress`: the encoder runs on all of them at once."""
        keep = np.concatenate([batch.mask.reshape(-1) for batch in batches])

        def forward(layer: Callable[..., Floats]) -> None:
            def product(name: str, linear: Linear, x: Floats) -> Floats:
                y = np.zeros((len(x), len(linear.bias)), np.float32)  # padding is no sample
                y[keep] = layer(name, x[keep], linear.bias, linear.activation)
                return y

            self._run(batches, product)

        return forward

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.bool_], *, num_threads: int | None = None) -> Floats:
        """Embed token `ids` [sentences, length]; `mask`, of the same shape, is False on padding, behind a sentence."""

        def product(name: str, layer: Linear, x: Floats) -> Floats:
            start = time.perf_counter()
            y: Floats = pc.linear(x, layer.weight, layer.bias, activation=layer.activation, num_threads=num_threads)
            self.linear_seconds += time.perf_counter() - start
            return y

        x = self._run([Batch(np.arange(len(ids)), ids, mask)], product)
        weights = mask / mask.sum(axis=1, keepdims=True, dtype=np.float32)
        mean: Floats = np.matmul(weights[:, None, :].astype(np.float32), x.reshape(*ids.shape, -1))[:, 0]
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        return mean

    def _run(self, batches: Sequence[Batch], product: Callable[[str, Linear, Floats], Floats]) -> Floats:
        """The last layer's output of all tokens of all batches, [tokens, hidden]; a product takes all at once."""
        x = _joined([self._embedded(batch.ids) for batch in batches])
        cuts = np.cumsum([batch.ids.size for batch in batches])[:-1]
        names = iter(self._names())
        for layer in self.layers:
            qkv = product(next(names), layer.qkv, x)
            parts = zip(np.split(qkv, cuts), batches, strict=True)
            context = _joined([_attention(part, batch.mask, self.heads) for part, batch in parts])
            x = layer.attention_norm(product(next(names), layer.attention_out, context), x)
            inner = product(next(names), layer.up, x)
            x = layer.norm(product(next(names), layer.down, inner), x)
        return x

    def _embedded(self, ids: NDArray[np.int64]) -> Floats:
        positions = np.broadcast_to(self.positions[: ids.shape[1]], (*ids.shape, self.words.shape[1]))
        return self.norm(self.words[ids.reshape(-1)], positions.reshape(ids.size, -1))


def _joined(parts: list[Floats]) -> Floats:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _attention(qkv: Floats, mask: NDArray[np.bool_], heads: int) -> Floats:
    """qkv [sentences * length, 3 * hidden] and mask [sentences, length] give [sentences * length, hidden], float32."""
    sentences, length = mask.shape
    query, key, value = qkv.reshape(sentences, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    # The smaller arrays are scaled: the queries, and the sums of the values.
    scores = np.matmul(query * np.float32(query.shape[-1] ** -0.5), key.swapaxes(-1, -2))
    inverse = np.empty((*scores.shape[:3], 1), np.float32)
    fused.softmax(scores, mask.sum(axis=1), inverse)
    context = np.matmul(scores, value)
    context *= inverse
    by_token: Floats = context.swapaxes(1, 2).reshape(len(qkv), -1)
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
