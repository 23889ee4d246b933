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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hf-datasel/hf_datasel/blob/main/recipes/notebooks/select_and_publish.ipynb)

# %% [markdown]
# # Select a subset of a dataset and publish it
#
# An instruction dataset is a long list of questions with answers. Not all of them teach a model something. This notebook
# scores every row with a small model, selects a twentieth of the rows, looks at them, and publishes them.
#
# **Result:** a dataset repository on the Hub with the selected rows, the scores of all rows, the row numbers, and a card
# with plots that documents the selection.
#
# **Cost:** an account on [huggingface.co](https://huggingface.co/join) and a GPU: the free T4 of Colab is
# enough (menu *Runtime*, *Change runtime type*). Nearly all the time goes into scoring. How long that takes depends on the
# rows and on the GPU, so the notebook times a few hundred rows first and tells you what to expect of the rest.

# %% [markdown]
# ## Set up

# %% tags=["skip-execution"]
# !pip install -Uq "hf-datasel[plot]" || pip install -Uq "hf-datasel[plot] @ git+https://github.com/hf-datasel/hf_datasel"

# %%
import time

import pandas as pd
from datasets import load_dataset
from huggingface_hub import notebook_login

from hf_datasel import Selection, select
from hf_datasel.analysis import distribution, draw_lengths, draw_overlaps, draw_scores, overlaps
from hf_datasel.scores import IFD
from hf_datasel.selectors import IterIT, Longest, Random, Superfiltering

# %matplotlib inline

# %% [markdown]
# Publishing needs a token with *write* permission. Make one at
# [huggingface.co/settings/tokens](https://huggingface.co/settings/tokens) and paste it here. It stays in this session
# and is never written into the notebook.

# %% tags=["skip-execution"]
notebook_login()

# %% [markdown]
# These are the names to change for a dataset, a model or a budget of your own. Any dataset with `instruction` and
# `output`, `prompt` and `completion`, `messages` or `conversations` works. `convention` is the prompt with which the
# model scores a row; `"superfiltering"` is that of the paper that scores with GPT-2. For a quick test, set `split = "train[:2000]"`.

# %% tags=["parameters"]
dataset_name = "tatsu-lab/alpaca"
split = "train"
scoring_model = "openai-community/gpt2"
convention = "superfiltering"
ratio = 0.05
sample_rows = 512
repo_id = "alpaca-superfiltering"
private = True

# %% [markdown]
# ## Load the rows

# %%
rows = load_dataset(dataset_name, split=split)
print(rows)
rows.select(range(3)).to_pandas()

# %% [markdown]
# ## Score and select
#
# The score is **IFD**, instruction-following difficulty: the perplexity of the answer given the instruction, divided by
# its perplexity without the instruction:
#
# - near 0: with the instruction, the answer is easy to predict; there is little to learn from it;
# - just below 1: the instruction hardly helps; the model does not know yet how to follow it;
# - 1 and above: the instruction makes the answer *less* likely; often the two do not belong together.
#
# [Superfiltering](https://arxiv.org/abs/2402.00530) keeps the rows with the highest IFD below 1, and reports that a
# model as small as GPT-2 can do the scoring for a larger one.
#
# First a sample, to see how long the whole will take. A score is a callable on a batch of rows; the first call
# downloads and loads the model, and is not timed.

# %%
ifd_score = IFD(scoring_model, convention=convention)
sample = rows.shuffle(seed=0).select(range(min(sample_rows, len(rows))))
ifd_score(sample[:2])

start = time.perf_counter()
ifd_score(sample[:])
seconds = time.perf_counter() - start
minutes = seconds / len(sample) * len(rows) / 60
print(f"{len(sample):,} rows took {seconds:.1f} s, so all {len(rows):,} will take about {minutes:.1f} min")

# %% [markdown]
# Then all rows. `select` scores them and records the model, which the card names.

# %%
selection = select(rows, Superfiltering(model=scoring_model, convention=convention), ratio=ratio)
print(selection)

# %% [markdown]
# ## Look at the scores
#
# Grey is the whole dataset, blue the selected rows, each as a share of its own rows. The selection is a band just below 1.
# The grey to the right of it are the rows that Superfiltering excludes. Many grey rows close to 1 would mean that the
# budget separates rows that differ very little, and that another model could have selected others.

# %%
ifd = selection.scores("ifd")
draw_scores(distribution("ifd", {"all rows": ifd, "selected": ifd[selection.indices]}))

# %% [markdown]
# Rows without a score, or with one of 1 and more, are counted, never dropped silently:

# %%
print("cannot be trained on:", selection.provenance["not_eligible"])
print("not considered:", selection.provenance["exclusions"])

# %% [markdown]
# Scores are numbers; read some rows too. Here are the first ones selected, best first:

# %%
selected = selection.apply(rows)
selected.select(range(min(5, len(selected)))).to_pandas()

# %% [markdown]
# ## Compare with other ways to select
#
# With the scores as a column, other methods need no model any more. **IterIT** multiplies IFD by the weights of the
# n-grams that no selected row has yet (in a trainer it also reselects every epoch). **Longest** and **Random** use no
# score; they are the baselines that other methods have to beat.

# %%
scored = rows.add_column("ifd", ifd)
selections = {
    "Superfiltering": selection,
    "IterIT": select(scored, IterIT(quality="ifd"), ratio=ratio),
    "Longest": select(scored, Longest(), ratio=ratio),
    "Random": select(scored, Random(), ratio=ratio),
}

# %% [markdown]
# How many rows do two selections share? The line below the matrix shows what two random draws would share. A pair well
# above it selects similar rows.

# %%
draw_overlaps(overlaps({name: each.indices for name, each in selections.items()}, pool_rows=len(rows)))

# %% [markdown]
# And do they select long answers or short ones? This matters: a model trained on longer answers gives longer answers,
# and longer answers often win comparisons for their length alone.

# %%
words = selections["Longest"].scores("response_words")
lengths = {name: words[each.indices] for name, each in selections.items()}
draw_lengths(distribution("words in the response", {"all rows": words, **lengths}, log=True))

# %%
pd.DataFrame(
    [
        {"selected by": name, "rows": len(each.indices), "shared with Superfiltering": each.overlap(selection)}
        for name, each in selections.items()
    ]
)

# %% [markdown]
# ## Publish
#
# One call, one commit: rows, scores, row numbers, card and plots. The repository is private until you open it on its
# settings page. License and languages are those of the original dataset; check yourself whether its license lets you
# publish a part of it.

# %%
commit = selection.push_to_hub(repo_id, private=private)
published = commit.repo_url.repo_id
print("The card:", commit.repo_url)

# %% [markdown]
# ## Load it back
#
# Everyone with access to the repository gets the rows with plain `datasets`:

# %%
subset = load_dataset(published, split="train")
subset.select(range(min(3, len(subset)))).to_pandas()

# %% [markdown]
# The scores of *all* rows are a second configuration, without any text, to select from again without scoring again:

# %%
all_scores = load_dataset(published, "scores", split="train")
print(all_scores)

# %% [markdown]
# And `Selection.from_hub` returns the selection itself. It applies to the original dataset, and raises an error for any
# other rows.

# %%
again = Selection.from_hub(published)
assert again == selection
assert again.apply(rows)[:] == subset[:]
print(again)

# %% [markdown]
# ## What this does not show
#
# A high score does not show that training on a row helps. No model was trained here, and the card says so. Before you rely on the subset, train on it and on as many random rows, with the same settings, and measure both
# on the task you care about; `iterit_qlora_t4.ipynb` does so on one free GPU, and `compare_selectors.ipynb` compares
# which rows each method selects and excludes. On clean data, random rows are hard to beat.
