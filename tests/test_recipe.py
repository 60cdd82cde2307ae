"""Recipes: what they may say, what they mean, and how they are refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import pycompress as pc
from pycompress.io import Info
from pycompress.pipeline.layers import kind_of
from pycompress.recipe import PRESETS, Factorize, Prune, Quantize, Recipe, Rule, Steps, value_of

WHOLE = """\
preset = {name = "sparse-int8", sparsity = 0.9}
batch = 64
threads = 2
budget = 0.1
layer_budget = 0.2
seed = 5

[[rule]]
name = ["*.embed*", "head.weight"]
keep = true

[[rule]]
name = "*.ffn.*"
layer = ["linear", "pointwise"]
factorize = {rank = 64}
prune = {sparsity = 0.5, pattern = "block", block = [1, 4], method = "magnitude", per = "output"}
quantize = {bits = 8, clip = "mse"}

[[rule]]
layer = "linear"
transposed = true
candidates = [
    {quantize = {bits = 4, group_size = 64, rounding = "gptq"}},
    {prune = {pattern = "2:4"}},
]
"""


def test_a_whole_recipe(tmp_path: Any) -> None:
    (tmp_path / "mine.toml").write_text(WHOLE)
    recipe = Recipe.from_toml(tmp_path / "mine.toml")
    assert (recipe.batch, recipe.threads, recipe.budget, recipe.layer_budget, recipe.seed) == (64, 2, 0.1, 0.2, 5)
    assert recipe.label == "mine"
    assert recipe.searches
    keep, ffn, search, *preset = recipe.rules
    assert keep.steps == Steps()
    assert ffn == Rule(
        ("*.ffn.*",),
        ("linear", "pointwise"),
        Steps(
            Factorize(rank=64),
            Prune(0.5, "block", (1, 4), method="magnitude", per="output"),
            Quantize(8, clip="mse"),
        ),
    )
    assert search.candidates == (
        Steps(quantize=Quantize(4, group_size=64, rounding="gptq")),
        Steps(prune=Prune(pattern="2:4")),
    )
    assert search.transposed
    assert tuple(preset) == Recipe.preset("sparse-int8", sparsity=0.9).rules
    assert recipe.rule("model.embed_tokens", "embedding") is keep
    assert recipe.rule("a.ffn.w", "linear") is ffn
    assert recipe.rule("a.ffn.w", "conv") is recipe.rules[-1]
    assert recipe.rule("a", "linear") is search
    assert recipe.rule("a", "embedding") is None


BAD = [
    ("batch = 1\nbatches = 2\npreset = 'int8'", 2, "batches is no known key, wanted one of preset, rule, batch"),
    ("preset = 'int7'", 1, "preset.name is 'int7'"),
    ("preset = 3", 1, "preset is 3"),
    ("preset = {name = 'int8', sparsity = 0.5}", 1, "preset.sparsity is no known key"),
    ("preset = {name = 'lowrank-int8', energy = 0.5, rank = 3}", 1, "energy or rank, not both"),
    ("preset = 'int8'\n\nbudget = 1.5", 3, "budget is 1.5, wanted 0 to 1"),
    ("preset = 'int8'\nbudget = nan", 2, "budget is nan"),
    ("preset = 'int8'\nbudget = true", 2, "budget is True, wanted a number"),
    ("preset = 'int8'\nbatch = 0", 2, "batch is 0, wanted 1 to"),
    ("preset = 'int8'\nbatch = 2.0", 2, "batch is 2.0, wanted an int"),
    ("preset = 'int8'\nseed = -1", 2, "seed is -1"),
    ("batch = 3", 1, "a recipe wants a preset or rules"),
    ("rule = 3", 1, "rule is no list"),
    ("[rule]\nkeep = true", 1, "rule is no list"),
    ("[[rule]]\nkeep = true\n[[rule]]\n\nquantise = {bits = 8}", 5, "rule[1].quantise is no known key"),
    ("[[rule]]\nkeep = true\n[[rule]]\nname = 'x'", 3, "rule[1] wants one of: keep"),
    ("[[rule]]\nkeep = true\nquantize = {bits = 8}", 1, "rule[0] wants one of: keep"),
    ("[[rule]]\nkeep = 1", 2, "rule[0].keep is 1, wanted true or false"),
    ("[[rule]]\nname = 3\nkeep = true", 2, "rule[0].name is 3, wanted a string"),
    ("[[rule]]\nname = []\nkeep = true", 2, "rule[0].name is []"),
    ("[[rule]]\nlayer = 'dense'\nkeep = true", 2, "rule[0].layer is 'dense', wanted one of linear"),
    (
        "[[rule]]\nlayer = ['linear', 'conv']\nfactorize = {rank = 3}",
        2,
        "rule[0].layer is 'conv', for which there is no rank 3",
    ),
    ("[[rule]]\nlayer = 'depthwise'\nquantize = {bits = 4}", 2, "is 'depthwise', for which there is no int4"),
    ("[[rule]]\nquantize = {bits = 7}", 2, "rule[0].quantize.bits is 7, wanted 8 or 4 or 16"),
    ("[[rule]]\nquantize = 8", 2, "rule[0].quantize is 8, wanted a table"),
    ("[[rule]]\n[rule.quantize]\nbits = 8\ngroup_size = 32", 4, "group_size is for 4 bits"),
    ("[[rule]]\nquantize = {per = 'group'}", 2, "rule[0].quantize.per is 'group', which is for 4 bits"),
    ("[[rule]]\nquantize = {bits = 16, clip = 'mse'}", 2, "clip is for 8 and 4 bits, and bits is 16"),
    ("[[rule]]\nprune = {}", 2, "rule[0].prune has no sparsity"),
    ("[[rule]]\nprune = {sparsity = 2}", 2, "rule[0].prune.sparsity is 2"),
    ("[[rule]]\nprune = {sparsity = 0.5, pattern = 'rows'}", 2, "rule[0].prune.pattern is 'rows'"),
    ("[[rule]]\nprune = {sparsity = 0.5, pattern = ':4'}", 2, "is ':4'"),
    ("[[rule]]\nprune = {sparsity = 0.5, block = [1, 4]}", 2, "block is for pattern 'block'"),
    ("[[rule]]\nprune = {sparsity = 0.5, pattern = 'block', block = [1]}", 2, "block is [1], wanted [rows, columns]"),
    ("[[rule]]\nprune = {sparsity = 0.5, pattern = 'block', block = [0, 1]}", 2, "block is 0, wanted 1 to"),
    ("[[rule]]\nprune = {sparsity = 0.5, method = 'best'}", 2, "method is 'best'"),
    ("[[rule]]\nprune = {sparsity = 0.5}\nquantize = {bits = 4}", 3, "to 4 bits cannot follow prune"),
    ("[[rule]]\nfactorize = {}", 2, "exactly one of rank, energy and error"),
    ("[[rule]]\nfactorize = {rank = 3, energy = 0.5}", 2, "exactly one of rank, energy and error"),
    ("[[rule]]\nfactorize = {rank = 0}", 2, "rank is 0, wanted 1 to"),
    ("[[rule]]\ncandidates = 'all'", 2, "candidates is 'all', wanted \"default\" or a list"),
    ("[[rule]]\ncandidates = []", 2, "candidates is []"),
    ("[[rule]]\ncandidates = [\n  {quantize = {bits = 8}},\n  {},\n]", 2, "candidates[1] is empty"),
    (
        "[[rule]]\ncandidates = [\n  {quantize = {bits = 8}},\n  {quantize = {bitz = 8}},\n]",
        4,
        "quantize.bitz is no known",
    ),
    ("# bits\nx = '''\nbits\n'''\n[[rule]]\nquantize = {bits = 3}", 2, "x is no known key"),
    ("[[rule]]\nname = '''\nquantize\n'''\nquantize = {bits = 3}", 5, "bits is 3"),
]


@pytest.mark.parametrize(("text", "line", "message"), BAD)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, message: str, tmp_path: Any) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(pc.FormatError, match=re.escape(message)) as told:
        Recipe.from_toml(path)
    assert str(told.value).startswith(f"{path}, line {line}: ")


@pytest.mark.parametrize("text", [b"a = ", b"a = 1\na = 2", b"\xff = 1", b"x = " + b"[" * 100_000])
def test_what_is_no_toml(text: bytes, tmp_path: Any) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(text)
    with pytest.raises(pc.FormatError, match=r"r\.toml: no TOML"):
        Recipe.from_toml(path)


def test_errors_of_a_dict_are_those_of_python() -> None:
    with pytest.raises(ValueError, match=r"^rule\[0\]\.quantize\.bits is 7") as told:
        Recipe.from_dict({"rule": [{"quantize": {"bits": 7}}]})
    assert not isinstance(told.value, pc.FormatError)
    with pytest.raises(TypeError, match=r"^batch is 'x', wanted an int"):
        Recipe.from_dict({"preset": "int8", "batch": "x"})
    with pytest.raises(TypeError, match="recipe is int"):
        Recipe.of(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wanted a TOML file or one of int8"):
        Recipe.of("int9")
    with pytest.raises(FileNotFoundError):
        Recipe.of("nothing.toml")


def test_presets() -> None:
    for name in PRESETS:
        assert Recipe.of(name).label == name
        assert Recipe.of(name) == Recipe.preset(name) == Recipe.from_dict({"preset": name})
    assert Recipe.preset("int4", group_size=64).rules[0].steps == Steps(quantize=Quantize(4, group_size=64))
    assert Recipe.preset("lowrank-int8", rank=9).rules[0].steps.factorize == Factorize(rank=9)
    assert Recipe.preset("lowrank-int8").rules[0].steps.factorize == Factorize(energy=0.95)
    assert Recipe.preset("sparse-int8", sparsity=0.7, block=[4, 1]).rules[0].steps.prune == Prune(0.7, "block", (4, 1))
    assert Recipe.preset("auto", budget=0.01).budget == 0.01
    assert [name for name in PRESETS if Recipe.of(name).searches] == ["auto"]
    int8 = Recipe.of("int8")
    assert all(int8.rule("x", layer) for layer in ("linear", "pointwise", "conv", "depthwise"))
    assert int8.rule("x", "embedding") is None
    assert Recipe.of("fp16").rule("x", "depthwise") is None
    with pytest.raises(ValueError, match="sparsity"):
        Recipe.preset("int8", sparsity=0.5)


def test_labels() -> None:
    assert str(Steps()) == "float32"
    assert str(Steps(Factorize(rank=8), Prune(0.75, "block", (1, 4)), Quantize(8))) == "rank 8 sparse 75% 1x4 int8"
    assert str(Steps(prune=Prune(pattern="2:4"), quantize=Quantize(8))) == "sparse 2:4 int8"
    assert str(Steps(Factorize(energy=0.9))) == "energy 0.9"
    assert str(Steps(quantize=Quantize(16))) == "float16"


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "layer", "kind"),
    [
        ("encoder.0.dense.weight", (8, 8), "F32", None, "linear"),
        ("encoder.0.dense.weight", (8, 8), "BF16", None, "linear"),
        ("encoder.0.dense.weight", (8, 8), "I64", None, "other"),
        ("encoder.0.dense.bias", (8,), "F32", None, "other"),
        ("embeddings.word_embeddings.weight", (8, 8), "F32", None, "embedding"),
        ("model.embed_tokens.weight", (8, 8), "F16", None, "embedding"),
        ("token_embd.weight", (8, 8), "Q8_0", None, "embedding"),
        ("wte.weight", (8, 8), "F32", None, "embedding"),
        ("embeddings_project.weight", (8, 8), "F32", None, "linear"),
        ("embeddings.patch.projection.weight", (8, 3, 4, 4), "F32", None, "conv"),
        ("member.weight", (8, 8), "F32", None, "linear"),
        ("embedding.weight", (8, 8), "F32", "linear", "linear"),
        ("x", (8, 8), "F32", "embedding", "embedding"),
        ("x", (8, 4, 1, 1), "F32", None, "pointwise"),
        ("x", (8, 4, 1, 1), "F32", "conv", "pointwise"),
        ("x", (8, 1, 3, 3), "F32", None, "depthwise"),
        ("x", (8, 1, 3, 3), "F32", "conv", "conv"),
        ("x", (8, 4, 3, 3), "F32", "conv", "conv"),
        ("x", (1, 8), "F32", None, "other"),
        ("x", (0, 8), "F32", None, "other"),
        ("x", (8, 4, 3), "F32", None, "other"),
    ],
)
def test_kinds_of_layers(name: str, shape: tuple[int, ...], dtype: str, layer: str | None, kind: str) -> None:
    assert kind_of(name, Info(shape, dtype, int(np.prod(shape)), layer)) == kind


def test_values_on_the_command_line() -> None:
    values = [value_of(text) for text in ("0.5", "3", "[1, 4]", "true", "'x'", "x")]
    assert values == [0.5, 3, [1, 4], True, "x", "x"]
