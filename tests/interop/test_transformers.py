from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

import npas
from tests.interop.nets import (
    assert_same,
    bank_names,
    generated_names,
    gradients,
    library,
)

transformers = library("transformers")

pytestmark = [
    pytest.mark.pure,
    # pin_memory without an accelerator, and other remarks of Trainer's data loader.
    pytest.mark.filterwarnings("ignore:.*pin_memory"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning"),
]

BYTES, LENGTH = 128, 48
TOKENS = torch.randint(0, BYTES, (2, 10), generator=torch.Generator().manual_seed(0))


def gpt2() -> Any:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": BYTES}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config)


def llama() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": BYTES}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, **ids))


def bert() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = transformers.BertConfig(**sizes, num_attention_heads=2, vocab_size=BYTES, num_labels=3)
    return transformers.BertForSequenceClassification(config)


def t5() -> Any:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    ids = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(**sizes, **ids, vocab_size=BYTES, dropout_rate=0.0)
    )


MODELS = {"gpt2": gpt2, "llama": llama, "bert": bert, "t5": t5}
DECODERS = ("gpt2", "llama", "t5")


def in_place(model: Any, budget: float = 0.4) -> Any:
    plan = npas.plan(model, budget)
    torch.manual_seed(1)
    return npas.compile_(model, plan=plan)


class Pages(Dataset[dict[str, torch.Tensor]]):
    """Windows of the manual that comes with Python, as bytes: the next one is to be predicted."""

    def __init__(self) -> None:
        topics = pytest.importorskip(
            "pydoc_data.topics", reason="this Python comes without its manual"
        ).topics
        text = "".join(topics[name] for name in ("if", "while", "for", "try"))
        self.bytes = torch.tensor([min(ord(letter), BYTES - 1) for letter in text])

    def __len__(self) -> int:
        return len(self.bytes) // LENGTH

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        window = self.bytes[index * LENGTH : (index + 1) * LENGTH]
        return {"input_ids": window, "labels": window.clone()}


def trainer(model: Any, folder: Path, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        logging_steps=1,
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
        seed=0,
        **options,
    )
    return transformers.Trainer(model=model, args=arguments, train_dataset=Pages())


def test_trainer_takes_the_loss_down_on_the_manual_of_python(tmp_path: Path) -> None:
    model = in_place(gpt2())
    run = trainer(model, tmp_path, max_steps=30, save_strategy="no")
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    # Less than by the frequency of each byte alone, which is 3.2 nats.
    assert losses[0] > 4.5 and losses[-1] < 3.3


def test_trainer_resumes_bit_for_bit(tmp_path: Path) -> None:
    model = in_place(gpt2())  # with dropout, as it is by default
    trainer(model, tmp_path, max_steps=12, save_steps=6).train()
    other = in_place(gpt2())
    resumed = trainer(other, tmp_path, max_steps=12, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert_same(dict(other.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


def test_a_checkpoint_of_trainer_holds_the_banks_and_not_the_weights(tmp_path: Path) -> None:
    model = in_place(gpt2())
    trainer(model, tmp_path, max_steps=1, save_steps=1).train()
    saved = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert bank_names(model) and bank_names(model) <= saved.keys()
    assert not generated_names(model) & saved.keys()
    # Parameters, and one fixed gain a layer.
    size = sum(p.numel() for p in model.parameters()) + len(generated_names(model))
    assert sum(value.numel() for value in saved.values()) == size


@pytest.mark.parametrize("name", MODELS)
def test_what_save_pretrained_writes_loads_into_a_model_compiled_by_the_same_plan(
    name: str, tmp_path: Path
) -> None:
    model = MODELS[name]()
    plan = npas.plan(model, 0.4)
    npas.compile_(model, plan=plan).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    # Its keys: the banks under npas.banks, and everything that was kept under its own name.
    assert saved.keys() == dict(model.state_dict()).keys()
    assert {key for key in saved if key.startswith("npas.banks.")} >= bank_names(model)
    other = npas.compile_(MODELS[name](), plan=plan)
    other.load_state_dict(saved)
    assert_same(npas.dense_state_dict(other), npas.dense_state_dict(model), rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_dense_weights_are_read_by_from_pretrained(name: str, tmp_path: Path) -> None:
    model = in_place(MODELS[name]()).eval()
    model.save_pretrained(tmp_path, state_dict=npas.dense_state_dict(model))
    original: Any = type(npas.materialize(model))
    plain, found = original.from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert not bank_names(plain)
    inputs: dict[str, torch.Tensor] = {"input_ids": TOKENS}
    if name == "t5":
        inputs["decoder_input_ids"] = TOKENS
    torch.testing.assert_close(plain.eval()(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("name", MODELS)
def test_the_materialised_model_is_saved_as_any_other(name: str, tmp_path: Path) -> None:
    dense: Any = npas.materialize(in_place(MODELS[name]())).eval()
    dense.save_pretrained(tmp_path)
    assert_same(dict(type(dense).from_pretrained(tmp_path).state_dict()), dict(dense.state_dict()))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("how", ["greedy", "beams", "samples"])
def test_generate_is_that_of_the_materialised_model(name: str, how: str) -> None:
    model = in_place(MODELS[name]()).eval()
    dense: Any = npas.materialize(model)
    options: dict[str, Any] = {"max_new_tokens": 8, "use_cache": True, "do_sample": False}
    options |= {"beams": {"num_beams": 3}, "samples": {"do_sample": True}}.get(how, {})
    made = []
    for each in (model, dense):
        torch.manual_seed(0)
        made.append(each.generate(TOKENS, attention_mask=torch.ones_like(TOKENS), **options))
    assert torch.equal(made[0], made[1])
    assert made[0].shape[1] > 2


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_cache_changes_nothing(name: str) -> None:
    model = in_place(MODELS[name]()).eval()
    found, expected = (
        model.generate(
            TOKENS,
            attention_mask=torch.ones_like(TOKENS),
            max_new_tokens=8,
            do_sample=False,
            use_cache=use_cache,
        )
        for use_cache in (True, False)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("reentrant", [False, True], ids=["hooks", "reentrant"])
@pytest.mark.parametrize("name", DECODERS)
def test_gradient_checkpointing(name: str, reentrant: bool) -> None:
    model = in_place(MODELS[name]()).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    options = {"input_ids": TOKENS, "labels": TOKENS, "use_cache": False}
    expected = gradients(model, model(**options).loss)
    if reentrant:
        model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert_same(gradients(model, model(**options).loss), expected)


def test_trainer_takes_what_compile_returns(tmp_path: Path) -> None:
    model = npas.compile(
        gpt2(), 0.4, frontend="auto", example_kwargs={"input_ids": TOKENS, "labels": TOKENS}
    )
    run = trainer(model, tmp_path, max_steps=2, save_steps=2)
    run.train()
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert bank_names(model) <= saved.keys()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_resizing_embeddings_that_are_generated_is_never_lost(name: str) -> None:
    model = in_place(MODELS[name]())
    # Of tied ones transformers says that the weight is no parameter; nothing may fail silently.
    with pytest.raises(AttributeError):
        model.resize_token_embeddings(BYTES + 8, mean_resizing=False)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_uncompiled_the_model_takes_new_words(name: str) -> None:
    model = npas.uncompile_(in_place(MODELS[name]()))
    model.resize_token_embeddings(BYTES + 8, mean_resizing=False)
    new = torch.full((1, 2), BYTES + 3)
    assert model(new).logits.shape[-1] == BYTES + 8
    npas.compile_(model, 0.4)
    assert model(new).logits.shape[-1] == BYTES + 8


def test_a_search_tells_the_roles_of_a_decoders_layers_apart() -> None:
    """Six steps on random tokens: one bank of attention inputs, one of first MLP layers."""
    config = transformers.GPT2Config(
        n_layer=3, n_embd=32, n_head=2, vocab_size=100, n_positions=32, use_cache=False
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    batches = [{"input_ids": torch.randint(0, 100, (4, 16))} for _ in range(6)]
    mapping = npas.search(
        model, batches, lambda model, x: model(**x, labels=x["input_ids"]).loss, groups=3
    )
    inside = [{name.split(".", 3)[-1] for name in layers} for layers in mapping.banks.values()]
    assert {"attn.c_attn.weight"} in inside and {"mlp.c_fc.weight"} in inside
    assert "lm_head.weight" not in mapping.bank_of  # tied: one layer, under its first name
    ssn = npas.compile(model, "40%", groups=mapping, example_kwargs=batches[0])
    assert torch.isfinite(ssn(**batches[0], labels=batches[0]["input_ids"]).loss)
