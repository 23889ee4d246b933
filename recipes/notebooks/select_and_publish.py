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
# An instruction dataset is a long list of questions with answers. Not all of them teach a model something. This
# notebook lets a small model score every row, keeps a twentieth of them, looks at what was kept, and publishes it.
#
# **At the end you have** a dataset repository on the Hub with the chosen rows, the scores of all rows, the row
# numbers, how they were chosen, and a card with plots that says so.
#
# **What it costs.** An account on [huggingface.co](https://huggingface.co/join) and a GPU: the free T4 of Colab will
# do (menu *Runtime*, *Change runtime type*). Nearly all the time goes into scoring. How long that takes depends on the
# rows and on the GPU, so the notebook times a few hundred rows first and tells you what to expect of the rest.

# %% [markdown]
# ## Set up

# %% tags=["skip-execution"]
# !pip install -Uq "hf-datasel[plot]"

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
# `output`, `prompt` and `completion`, `messages` or `conversations` works. `convention` says in which words the row is
# put before the scoring model; `"superfiltering"` are those of the paper that scores with GPT-2. For a quick look
# first, set `split = "train[:2000]"`.

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
# The score is **IFD**, instruction-following difficulty. The model reads each answer twice, once after its instruction
# and once without. IFD is the perplexity of the first reading over that of the second:
#
# - near 0: with the instruction, the answer is easy to guess; there is little to learn from it;
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
# Then all rows. `select` scores them on the way and remembers with which model, so that the card can say so.

# %%
selection = select(rows, Superfiltering(model=scoring_model, convention=convention), ratio=ratio)
print(selection)

# %% [markdown]
# ## Look at the scores
#
# Grey is the whole dataset, blue what was chosen, each as a share of its own rows. The choice is a band just below 1.
# The grey to the right of it are the rows that Superfiltering refuses. A heap of grey close to 1 would mean that the
# budget cuts through rows that differ by very little, and that another model or seed could have cut elsewhere.

# %%
ifd = selection.scores("ifd")
draw_scores(distribution("ifd", {"all rows": ifd, "chosen": ifd[selection.indices]}))

# %% [markdown]
# Rows without a score, or with one of 1 and more, are counted, never dropped in silence:

# %%
print("cannot be trained on:", selection.provenance["not_eligible"])
print("not considered:", selection.provenance["left_out"])

# %% [markdown]
# Scores are numbers; read some rows too. Here are the first ones chosen, best first:

# %%
chosen = selection.apply(rows)
chosen.select(range(min(5, len(chosen)))).to_pandas()

# %% [markdown]
# ## Compare with other ways to choose
#
# With the scores as a column, other methods need no model any more. **IterIT** weighs IFD against the words that the
# rows chosen so far already have (in a trainer it also chooses again every epoch). **Longest** and **Random** look at
# no score at all; they are what a cleverer method has to beat.

# %%
scored = rows.add_column("ifd", ifd)
selections = {
    "Superfiltering": selection,
    "IterIT": select(scored, IterIT(quality="ifd"), ratio=ratio),
    "Longest": select(scored, Longest(), ratio=ratio),
    "Random": select(scored, Random(), ratio=ratio),
}

# %% [markdown]
# How many rows do two choices share? The line below the matrix says what two random draws would share. A pair well
# above it chooses alike, for whatever reason.

# %%
draw_overlaps(overlaps({name: each.indices for name, each in selections.items()}, pool_rows=len(rows)))

# %% [markdown]
# And do they choose long answers or short ones? This matters: a model trained on longer answers gives longer answers,
# and longer answers often win comparisons for their length alone.

# %%
words = selections["Longest"].scores("response_words")
lengths = {name: words[each.indices] for name, each in selections.items()}
draw_lengths(distribution("words in the response", {"all rows": words, **lengths}, log=True))

# %%
pd.DataFrame(
    [
        {"chosen by": name, "rows": len(each.indices), "shared with Superfiltering": each.overlap(selection)}
        for name, each in selections.items()
    ]
)

# %% [markdown]
# ## Publish
#
# One call, one commit: rows, scores, row numbers, card and plots. The repository is private until you open it on its
# settings page. Licence and languages of the original dataset are carried over; whether its licence lets you publish a
# part of it is for you to check.

# %%
commit = selection.push_to_hub(repo_id, private=private)
published = commit.repo_url.repo_id
print("The card:", commit.repo_url)

# %% [markdown]
# ## Load it back
#
# Anybody who may read the repository gets the rows with plain `datasets`:

# %%
subset = load_dataset(published, split="train")
subset.select(range(min(3, len(subset)))).to_pandas()

# %% [markdown]
# The scores of *all* rows are a second configuration, without any text, to select from again without scoring again:

# %%
all_scores = load_dataset(published, "scores", split="train")
print(all_scores)

# %% [markdown]
# And `Selection.from_hub` gives the selection itself. It applies to the original dataset, and refuses any other rows.

# %%
again = Selection.from_hub(published)
assert again == selection
assert again.apply(rows)[:] == subset[:]
print(again)

# %% [markdown]
# ## What this does not tell you
#
# That a row has a high score does not show that training on it helps. Nothing here was trained, and the card says that
# too. Before you rely on the subset, train on it and on as many random rows, with the same settings, and measure both
# on the task you care about; `iterit_qlora_t4.ipynb` does so on one free GPU, and `compare_selectors.ipynb` looks
# closer at what each method takes and leaves. On clean data, random rows are hard to beat.
