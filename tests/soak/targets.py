"""What is given mutated input, and what must come of it: an NpasError, or something sound."""

import contextlib
import hashlib
import io
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import nn

import npas
from npas.cli import main
from npas.model_source import load_model
from npas.saved import _hash_of_plan
from tests.invariants import check_windows
from tests.soak.drawn import Target, compiles, networks, stacks
from tests.soak.mutate import mutate_bytes, mutate_json

#: Elements of a bank that is checked by brute force.
_MOST = 10**7


class Convolutions(nn.Module):
    """Convolutions of two sizes, norms, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)))
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.stem(x))).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """An embedding with a padding row, tied to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12, padding_idx=0)
        self.layers = nn.Sequential(*(nn.Linear(12, 12) for _ in range(4)))
        self.head = nn.Linear(12, 20)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embedding(ids)))


#: Networks and how they are planned.
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], Sequence[tuple[str, dict[str, Any]]]]] = {
    "convolutions": (
        Convolutions,
        (
            ("50%", {}),
            ("30%", {"groups": "single"}),
            ("60%", {"downsample": "emb", "groups": "by_shape"}),
            ("25%", {"groups": "single", "upsample": "inter"}),
            ("200%", {"groups": "single"}),
        ),
    ),
    "tokens": (
        Tokens,
        (
            ("70%", {}),
            ("50%", {"groups": "single", "k": 3}),
            ("60%", {"overrides": {"layers.0.weight": {"scale": True}}, "groups": "single"}),
        ),
    ),
}


@cache
def plan_texts() -> list[str]:
    """Return the plans that are mutated."""
    return [
        npas.plan(make(), budget, **how).to_json()
        for make, ways in NETWORKS.values()
        for budget, how in ways
    ]


def plans(random: random.Random) -> tuple[str, bytes]:
    """Read a mutated plan."""
    texts = plan_texts()
    text = mutate_json(random.choice(texts), random, texts)
    return check_plan(text), _bytes(text)


def check_plan(text: str) -> str:
    """Read text as a plan: a `PlanError`, or a plan that is sound and is written as it was read."""
    return _read(text, npas.Plan.from_json, npas.PlanError, _is_sound_plan)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def _read(
    text: str,
    read: Callable[[str], Any],
    error: type[Exception],
    check: Callable[[Any], None],
) -> str:
    try:
        found = read(text)
    except error as refused:
        assert str(refused)
        return "refused"
    check(found)
    assert read(found.to_json()) == found
    return "read, sound"


def _is_sound_plan(plan: npas.Plan) -> None:
    if all(bank.size <= _MOST for bank in plan.banks):
        check_windows(plan)


@cache
def mapping_texts() -> list[str]:
    """Return the mappings that are mutated: searched ones."""
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)), nn.Linear(6, 3))
        x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
        searched = npas.search(
            model,
            [(x, y)] * 2,
            lambda module, batch: nn.functional.cross_entropy(module(batch[0]), batch[1]),
            steps=2,
            groups=2,
            templates=4,
        )
        found.append(searched.to_json())
    return found


def mappings(random: random.Random) -> tuple[str, bytes]:
    """Read a mutated mapping."""
    texts = mapping_texts()
    text = mutate_json(random.choice(texts), random, texts)
    return check_mapping(text), _bytes(text)


def check_mapping(text: str) -> str:
    """Read text as a mapping: an `NpasError`, or a mapping that is written as it was read."""
    return _read(text, npas.Mapping.from_json, npas.NpasError, lambda found: None)


@cache
def saved_folders() -> list[tuple[Callable[[], nn.Module], dict[str, bytes]]]:
    """Return the folders that are mutated, as name -> content."""
    found = []
    for make, ways in NETWORKS.values():
        for budget, how in ways[:2]:
            with tempfile.TemporaryDirectory() as folder:
                torch.manual_seed(0)
                npas.save(npas.compile(make(), budget, **how), folder)
                content = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
            found.append((make, content))
    return found


def tensors(random: random.Random) -> tuple[str, bytes]:
    """Load a folder whose tensors are mutated; in most cases with a hash that is right again."""
    folders = saved_folders()
    make, content = random.choice(folders)
    (name,) = (name for name in content if name.endswith(".safetensors"))
    others = [data for _, c in folders for n, data in c.items() if n.endswith(".safetensors")]
    data = mutate_bytes(content[name], random, others)
    plan = content["plan.json"]
    if signed := random.random() < 0.7:
        name, plan = _signed(plan, data)
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        Path(folder, name).write_bytes(data)
        Path(folder, "plan.json").write_bytes(plan)
        try:
            loaded = npas.load(folder, make)
        except npas.CheckpointError as refused:
            assert str(refused)
            return "refused", data
    if not signed:
        assert data == content[name], "a file that was altered is loaded"
        return "not altered", data
    expected = load_tensors(data)
    state = loaded.state_dict()
    assert state.keys() == expected.keys(), "other tensors than the file has"
    for key, value in state.items():
        assert torch.equal(value.nan_to_num(), expected[key].nan_to_num()), key
    return "loaded, as the file has it", data


@cache
def _scratch() -> str | None:
    return "/dev/shm" if shutil.os.path.isdir("/dev/shm") else None  # type: ignore[attr-defined]


def _signed(plan: bytes, data: bytes) -> tuple[str, bytes]:
    """Return the name of a file of tensors, and a plan.json that names it."""
    written = json.loads(plan)
    digest = hashlib.sha256(data).hexdigest()
    name = f"weights-{digest[:16]}.safetensors"
    head = written["saved"] | {"file": name, "bytes": len(data), "sha256": digest}
    head["plan_sha256"] = _hash_of_plan(npas.Plan.from_json(plan.decode()), head)
    return name, json.dumps(written | {"saved": head}).encode()


_WORDS = (
    "plan", "show", "explain", "diff", "check", "count", "--budget", "10%", "-1", "1e400", "4x", "",
    "PLAN", "NOWHERE", "FOLDER", "--json", "--out", "--groups", "auto", "nonsense", "hf:",
    "hf:/dev/null", "torch.nn:Linear", "torch.nn:ReLU", "os:system", ":", "a:b", "x" * 3000,
    "\x1b[31m", "[red]",
    "--kwargs", "{", '{"in_features": 4, "out_features": 4}', "[1]", "null", "--full", "--help",
    "--banks", "0.weight", "layers.0.weight", "--inputs", "3,4", "9" * 50, "-h", "--", "*", "..",
)  # fmt: skip


def commands(random: random.Random) -> tuple[str, bytes]:
    """Run the command line with random arguments, some of them files."""
    words = random.choices(_WORDS, k=random.randrange(1, 7))
    with _files(random) as places:
        arguments = [places.get(word, word) for word in words]
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                status: Any = main(arguments)
            except SystemExit as exit:
                status = exit.code
    assert status in range(6), f"{words}: exit status {status!r}"
    assert "Traceback" not in out.getvalue(), f"{words}: a traceback"
    return f"exit status {status}", json.dumps(words).encode()


@contextlib.contextmanager
def _files(random: random.Random) -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        text = random.choice(plan_texts())
        if random.random() < 0.5:
            text = mutate_json(text, random, plan_texts())
        path = Path(folder, "plan.json")
        path.write_bytes(_bytes(text))
        yield {"PLAN": str(path), "FOLDER": folder, "NOWHERE": str(Path(folder, "nowhere"))}


_CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "vocab_size": 16,
    "n_positions": 8,
}
_CODE = "from torch import nn\ndef make(n=3):\n    return nn.Linear(n, 2)\nclass A: pass\n"
#: Parts of references. Callables of other modules are called, as a reference asks for, so none
#: is here that does something.
_PARTS = (
    ":", "::", ".", "..", "/", "", " ", "\x00", "\x1b[31m", "[red]", "hf", "timm", "torch.nn",
    "torch.nn:Linear", "torch.nn:Identity", "torch.nn.modules.linear", "MODEL", "CONFIG", "make",
    "A", "nn", "__doc__", "__class__", ".py", ".json", "nowhere", "x" * 4_000, "\ud800", "é", "-",
)  # fmt: skip


def _few_layers(config: str) -> str:
    """Return a configuration of few layers: what it asks for, a library builds, however long."""
    try:
        data = json.loads(config)
        data["n_layer"] = min(data["n_layer"], 3)
    except (ValueError, RecursionError, TypeError, LookupError):
        return config
    return json.dumps(data)


def references(random: random.Random) -> tuple[str, bytes]:
    """Build what a mutated reference, file or configuration names."""
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        files = {"MODEL": Path(folder, "model.py"), "CONFIG": Path(folder, "config.json")}
        code, config = _CODE.encode(), json.dumps(_CONFIG)
        if random.random() < 0.5:
            config = _few_layers(mutate_json(config, random, [config]))
        if random.random() < 0.3:
            code = mutate_bytes(code, random, [config.encode("utf-8", "surrogatepass")])
        files["MODEL"].write_bytes(code)
        files["CONFIG"].write_bytes(_bytes(config))
        source = random.choice(("MODEL:make", "hf:CONFIG", "torch.nn:Linear", "MODEL:A"))
        if random.random() < 0.5:
            source = "".join(random.choices(_PARTS, k=random.randrange(5)))
        for name, path in files.items():
            source = source.replace(name, str(path))
        arguments = {"n": random.choice((0, 1, 3, -1, 10**9, None, "3", 2**70, 1.5, [1]))}
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                model = load_model(source, random.choice(({}, arguments)))
            except npas.NpasError as refused:
                assert str(refused)
                return "refused", source.encode("utf-8", "surrogatepass")
    assert all(parameter.is_meta for parameter in model.parameters())
    return "built on the meta device", source.encode("utf-8", "surrogatepass")


TARGETS: Mapping[str, Target] = {
    "plans": plans,
    "tensors": tensors,
    "mappings": mappings,
    "commands": commands,
    "references": references,
    "networks": networks,
    "stacks": stacks,
    "compiles": compiles,
}
