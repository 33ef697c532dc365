from pathlib import Path
from typing import Any

import pytest
import torch

import npas
from tests.interop.nets import assert_same, library

peft = library("peft")
library("transformers")

pytestmark = [
    pytest.mark.pure,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),
]


def materialised() -> Any:
    from tests.interop.test_transformers import in_place, llama

    return npas.materialize(in_place(llama())).eval()


def adapted(model: Any) -> Any:
    torch.manual_seed(2)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM"
    )
    return peft.get_peft_model(model, config)


def step(model: Any) -> float:
    from tests.interop.test_transformers import TOKENS

    wanted = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(wanted, 0.05)
    loss = model(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_a_materialised_model_takes_lora_and_learns() -> None:
    from tests.interop.test_transformers import TOKENS

    model = materialised()
    expected = model(TOKENS).logits
    lora = adapted(model)
    torch.testing.assert_close(lora(TOKENS).logits, expected)
    frozen = {n: p.detach().clone() for n, p in lora.named_parameters() if not p.requires_grad}
    losses = [step(lora) for _ in range(5)]
    assert losses[-1] < losses[0]
    after = {n: p.detach() for n, p in lora.named_parameters() if not p.requires_grad}
    assert frozen and not any("npas" in name for name in frozen)
    assert_same(after, frozen, rtol=0, atol=0)


def test_adapters_merge_into_the_weights() -> None:
    from tests.interop.test_transformers import TOKENS

    lora = adapted(materialised())
    step(lora)
    expected = lora.eval()(TOKENS).logits
    merged = lora.merge_and_unload()
    assert type(merged) is type(materialised())
    torch.testing.assert_close(merged(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)


def test_adapters_save_and_load(tmp_path: Path) -> None:
    from tests.interop.test_transformers import TOKENS

    lora = adapted(materialised())
    step(lora)
    lora.save_pretrained(tmp_path)
    other = peft.PeftModel.from_pretrained(materialised(), tmp_path)
    torch.testing.assert_close(other.eval()(TOKENS).logits, lora.eval()(TOKENS).logits)
