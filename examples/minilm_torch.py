"""The MiniLM sentence encoder of transformers, with its linear layers in the kernels of pycompress.

pip install "pycompress-kernels[demo,torch]" transformers
python examples/minilm_torch.py                    # --recipe sparse-int8, or the path of a recipe
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file

import pycompress.torch as pct
from pycompress.demo import fetch, minilm
from pycompress.demo import sentences as corpus

# An editable install has the repository on its path, where transformers would take the directory `kernels` for another
# package of that name.
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
from transformers import BertModel  # noqa: E402


def embed(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean over the tokens of each sentence, of length 1."""
    mask = batch["attention_mask"][..., None]
    return F.normalize((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--recipe", default="int8", help="a preset, or the path of a recipe")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)

    directory = fetch.fetch(lambda done: None)
    tokens = minilm.tokenize(directory, corpus.load(64), longest=128)
    batches = [
        {"input_ids": torch.from_numpy(b.ids), "attention_mask": torch.from_numpy(b.mask).long()}
        for b in minilm.batches(tokens, size=256)
    ]
    model = BertModel.from_pretrained(directory, dtype=torch.float32, add_pooling_layer=False).eval()
    small = pct.compress_(copy.deepcopy(model), options.recipe, calibration=batches[::4])
    print(small.pycompress_report)

    seconds: dict[str, list[float]] = {"float32": [], "compressed": []}
    with torch.inference_mode():
        for _ in range(9):
            for name, one in (("float32", model), ("compressed", small)):
                start = time.perf_counter()
                embeddings = torch.cat([embed(one, batch) for batch in batches])
                seconds[name].append(time.perf_counter() - start)
                if name == "float32":
                    exact = embeddings
        cosines = (exact * embeddings).sum(1)
        faster = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
        print(f"{faster:.2f} times as fast as float32; cosine {cosines.mean():.4f} (mean), {cosines.min():.4f} (least)")

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "minilm.safetensors"
            save_file(small.state_dict(), path)
            again = pct.load_(BertModel(model.config, add_pooling_layer=False).eval(), path)
            same = torch.equal(embed(again, batches[0]), embed(small, batches[0]))
            print(f"{path.stat().st_size / 1e6:.1f} MB, embeddings and all; the same bits when loaded: {same}")


if __name__ == "__main__":
    main()
