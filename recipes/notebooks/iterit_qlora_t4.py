# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hf-datasel/hf_datasel/blob/main/recipes/notebooks/iterit_qlora_t4.ipynb)

# %% [markdown]
# # Fine-tune with IterIT and QLoRA on a free T4
#
# [IterIT](https://arxiv.org/abs/2412.17365) selects the training rows again before every epoch, with the current
# model: rows that are still hard for it, and whose n-grams the other rows do not have. QLoRA trains a small adapter on a
# model in 4 bits, so that it fits on a small GPU.
#
# **Result:** an adapter for Qwen3-0.6B on the Hub, a dataset with the rows of every round, and a comparison with random
# rows: the same model, steps and settings.
#
# **Cost:** an account on [huggingface.co](https://huggingface.co/join) and the free T4 of Colab (menu
# *Runtime*, *Change runtime type*). Neither time nor memory has been measured on a T4 yet. The
# table of rounds shows how many seconds each selection took; lower `pool_rows` if that is too long, and
# `batch_size` if memory runs out.

# %% [markdown]
# ## Set up

# %% tags=["skip-execution"]
# !pip install -Uq "hf-datasel[plot]" || pip install -Uq "hf-datasel[plot] @ git+https://github.com/hf-datasel/hf_datasel"

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch
from datasets import load_dataset
from huggingface_hub import notebook_login
from peft import LoraConfig
from transformers import BitsAndBytesConfig, pipeline

from hf_datasel import Selection, SelectiveSFTConfig, SelectiveSFTTrainer
from hf_datasel.analysis import jaccard_matrix, plot_rounds
from hf_datasel.selectors import IterIT, Random

# %matplotlib inline

# %% [markdown]
# Pushing needs a token with *write* permission, from
# [huggingface.co/settings/tokens](https://huggingface.co/settings/tokens). It stays in this session.

# %% tags=["skip-execution"]
notebook_login()

# %% [markdown]
# `selection_size` rows are trained on in each of `epochs` rounds. For the larger model, put `"Qwen/Qwen3-1.7B"`.

# %% tags=["parameters"]
model_name = "Qwen/Qwen3-0.6B"
dataset_name = "tatsu-lab/alpaca"
pool_rows = 4000
eval_rows = 400
selection_size = 200
epochs = 3
batch_size = 4
gradient_accumulation_steps = 4
max_length = 512
learning_rate = 2e-4
random_seeds = [0, 1]
hub_model_id = "qwen3-0.6b-alpaca-iterit"
private = True

# %% [markdown]
# ## Rows to select from, and rows to measure on
#
# The second part is never trained on.

# %%
pool = load_dataset(dataset_name, split=f"train[:{pool_rows}]")
held_out = load_dataset(dataset_name, split=f"train[{pool_rows}:{pool_rows + eval_rows}]")
print(f"{len(pool):,} rows to select from, {len(held_out):,} to measure on")

# %% [markdown]
# ## The model in 4 bits, and its adapter
#
# A T4 computes in float16 and has no bfloat16 of its own. Without a GPU, for example to try this notebook with a
# tiny model, everything is computed in float32.

# %%
on_gpu = torch.cuda.is_available()
dtype = torch.float16 if on_gpu else torch.float32

quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=dtype,
)
adapter = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")

# %% [markdown]
# ## One trainer for both
#
# `SelectiveSFTTrainer` is TRL's `SFTTrainer` with a `selector`; every other argument is TRL's own. One detail is for
# the T4: TRL keeps the adapter of a 4-bit model in bfloat16, which the gradient scaler of float16 training does not
# support. The adapter is small, so it is trained in float32.


# %%
def make_trainer(selector, name, seed=0):
    args = SelectiveSFTConfig(
        output_dir=name,
        selection_size=selection_size,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_length=max_length,
        model_init_kwargs={"dtype": dtype},
        fp16=on_gpu,
        bf16=False,
        seed=seed,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        hub_model_id=hub_model_id,
        hub_private_repo=private,
        push_selection=True,
    )
    trainer = SelectiveSFTTrainer(
        model=model_name,
        args=args,
        selector=selector,
        train_dataset=pool,
        eval_dataset=held_out,
        quantization_config=quantization,
        peft_config=adapter,
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


# %% [markdown]
# ## Train with IterIT
#
# In the first round IterIT scores the whole pool; after that it scores a window of three times the budget.

# %%
trainer = make_trainer(IterIT(), "iterit")
trainer.train()

# %% [markdown]
# The loss on the held-out rows, with the adapter disabled (the model before training) and enabled.

# %%
with trainer.model.disable_adapter():
    before = trainer.evaluate(metric_key_prefix="before")["before_loss"]
after = trainer.evaluate()["eval_loss"]
losses = [{"trained on": "nothing yet", "evaluation loss": before}, {"trained on": "IterIT", "evaluation loss": after}]
pd.DataFrame(losses)

# %% [markdown]
# ## The rounds
#
# `selection_ifd_mean` is of the rows selected, by the model of that round. `selection_overlap` is the Jaccard similarity
# with the previous round: at 1 reselecting changed nothing, and you could have selected once. `selection_time_share` is
# the share of the time so far that was spent on selecting rather than training.

# %%
rounds = pd.DataFrame([entry for entry in trainer.state.log_history if "selection_round" in entry])
rounds.filter(like="selection_")

# %% [markdown]
# On the left of each round the rows that were scored, on the right those that were selected. The first round scores the
# whole pool, later ones only the window, so their left halves differ for that reason too. If the window moves down from
# round to round, the model is learning what was hard. If selected and scored rows look alike, the score hardly separates
# these rows any more.

# %%
plt.figure(figsize=(7, 3.5), layout="constrained")
plot_rounds(trainer.selections, "ifd", ax=plt.gca())
plt.show()

# %%
names = [f"round {number}" for number in range(len(trainer.selections))]
pd.DataFrame(jaccard_matrix(trainer.selections), index=names, columns=names).round(2)

# %% [markdown]
# The first rows of the last round, best first:

# %%
trainer.selections[-1].apply(pool).select(range(min(5, selection_size))).to_pandas()

# %% [markdown]
# ## Measure before you believe
#
# The same model, steps and settings on random rows, once for each seed. Compare the difference between two draws with
# the difference between random rows and IterIT: a smaller one may be chance.

# %%
for seed in random_seeds:
    baseline = make_trainer(Random(), f"random-{seed}", seed=seed)
    baseline.train()
    losses.append({"trained on": f"random rows, seed {seed}", "evaluation loss": baseline.evaluate()["eval_loss"]})
pd.DataFrame(losses)

# %% [markdown]
# **How to read this.** Lower is better, at predicting the answers of *this* dataset. That is not the same as answering
# well, and it favours random rows: they look like the held-out rows, which are a part of the same dataset, while
# IterIT selects unusual ones. If IterIT is better nevertheless, that is a good sign. If it is not, nothing is decided
# yet: measure both on the task you care about. On a dataset without many bad rows, random rows are hard to
# beat, and cheaper.
#
# The steps are equal, the time is not: IterIT also spent the seconds in the table of rounds. And it trained on different
# rows in each round, while the random rows were drawn once.

# %% [markdown]
# ## Push the model and the selections
#
# `push_selection=True` in the settings publishes the rows of every round as a dataset, named like the model with
# `-selection` at the end. The model's card says how its rows were selected, links to them, and shows the evaluation
# loss.

# %%
trainer.push_to_hub()
model_repo = trainer.hub_model_id
selection_repo = f"{model_repo}-selection"
print(f"https://huggingface.co/{model_repo}")
print(f"https://huggingface.co/datasets/{selection_repo}")

# %% [markdown]
# ## Use them
#
# The rows of a round as a dataset, and the selection as it was made:

# %%
first_round = load_dataset(selection_repo, "round-0", split="train")
assert Selection.from_hub(selection_repo, config_name="round-0") == trainer.selections[0]
print(first_round)

# %% [markdown]
# And the model, loaded from the Hub: the adapter, on top of the base model without the 4 bits.

# %%
ask = pipeline("text-generation", model=model_repo, dtype=dtype)
question = [{"role": "user", "content": "Name three things that keep a garden healthy."}]
answer = ask(question, max_new_tokens=64, do_sample=False)[0]["generated_text"][-1]["content"]
print(answer)
