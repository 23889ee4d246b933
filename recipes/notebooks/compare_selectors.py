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
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hf-datasel/hf_datasel/blob/main/recipes/notebooks/compare_selectors.ipynb)

# %% [markdown]
# # Compare selectors, and read their plots
#
# Six ways to select the same number of rows from the same dataset. Which rows does each select and exclude, and do the
# selections agree?
#
# **Result:** you see which rows each method prefers before you spend GPU hours on training with one of them, and you
# know what the plots do not show.
#
# **Cost:** one forward pass of a small model per row, preferably on a GPU: the free T4 of Colab is enough. By default
# the rows are the first 5,000 of Alpaca; selecting afterwards needs no model and no GPU. Nothing is published, and
# public datasets and models need no account.

# %% [markdown]
# ## Set up

# %% tags=["skip-execution"]
# !pip install -Uq "hf-datasel[plot]" || pip install -Uq "hf-datasel[plot] @ git+https://github.com/hf-datasel/hf_datasel"

# %%
import numpy as np
import pandas as pd
from datasets import load_dataset
from huggingface_hub import notebook_login

from hf_datasel import score, select
from hf_datasel.analysis import distribution, draw_lengths, draw_overlaps, draw_scores, overlaps
from hf_datasel.scores import IFD, Length
from hf_datasel.selectors import GraphFilter, IterIT, Longest, Random, Superfiltering, Top

# %matplotlib inline

# %% [markdown]
# Log in only if the dataset or the model is private or gated; otherwise skip this cell.

# %% tags=["skip-execution"]
notebook_login()

# %% tags=["parameters"]
dataset_name = "tatsu-lab/alpaca"
split = "train[:5000]"
scoring_model = "openai-community/gpt2"
convention = "superfiltering"
size = 250

# %% [markdown]
# ## Score once
#
# `ifd` is the perplexity of an answer with its instruction over that without it: below 1 the instruction helps, at 1
# and above it does not. `loss` is the mean loss of the answer, given the instruction. `response_words` needs no model.
# A row that cannot be scored has no value, and a reason.

# %%
rows = load_dataset(dataset_name, split=split)
scored = score(rows, [IFD(scoring_model, convention=convention), Length()])
scored.select_columns(["ifd", "loss", "response_words"]).to_pandas().describe()

# %% [markdown]
# ## Select with six methods
#
# Every method gets the same budget and the same scores. `Random` runs twice with different seeds: what differs between
# two random draws is noise, and a difference between two methods has to be larger than that to mean anything.

# %%
selectors = {
    "Random": Random(),
    "Longest": Longest(),
    "Highest loss": Top(by="loss"),
    "Superfiltering": Superfiltering(quality="ifd"),
    "GraphFilter": GraphFilter(quality="ifd"),
    "IterIT": IterIT(quality="ifd"),
}
selections = {name: select(scored, selector, size=size) for name, selector in selectors.items()}
selections["Random again"] = select(scored, Random(), size=size, seed=1)
selected = {name: selection.indices for name, selection in selections.items()}

# %% [markdown]
# ## Which scores do the selected rows have?
#
# Grey is the whole dataset; lines are selections. Each curve is a share of its *own* rows, so heights say nothing about
# how many rows there are. Triangles mark medians.
#
# **How to read it.** `Random` should follow the grey; the deviation shows how much so few rows vary by chance. A
# method by IFD that excludes 1 and above selects rows just below 1. One thin spike there means that it uses only IFD;
# IterIT, which also selects for new n-grams, covers lower values too.
#
# **What it does not show.** Whether a high IFD is a good row: a wrong answer and a hard question both raise it.

# %%
ifd = np.array(scored["ifd"][:], dtype=float)
few = ["IterIT", "Longest", "Random"]
draw_scores(distribution("ifd", {"all rows": ifd, **{name: ifd[selected[name]] for name in few}}))

# %% [markdown]
# The same for all methods, one below the other. Each curve is scaled to its own highest bin: compare positions and
# shapes, not heights.

# %%
draw_lengths(distribution("ifd", {"all rows": ifd, **{name: ifd[at] for name, at in selected.items()}}))

# %% [markdown]
# ## How long are the answers?
#
# **How to read it.** The axis is logarithmic: a step to the right multiplies the length. The black line is the median.
# Loss and IFD are means over the tokens of an answer, and the mean of a short answer is over few tokens, so it
# varies more. Check whether a method by score is to the left of the grey: then it may select short answers rather than
# hard ones.
#
# **What it does not show.** Whether length is good. Models trained on long answers write long answers, which judges
# often prefer for no other reason. If two methods differ in length, compare both with `Longest` before you attribute
# the difference to the score.

# %%
words = np.array(scored["response_words"][:], dtype=float)
groups = {"all rows": words, **{name: words[at] for name, at in selected.items()}}
draw_lengths(distribution("words in the response", groups, log=True))

# %% [markdown]
# ## Do they agree?
#
# Each cell is the Jaccard similarity of two selections: rows in both over rows in either. 1 is the same rows, 0 is none
# in common.
#
# **How to read it.** Start with `Random` and `Random again`, and with the number below the matrix: that is chance. A
# pair near it agrees no more than chance. Two methods far above it share a preference, here usually IFD.
#
# **What it does not show.** Which of two selections is better, or whether they *mean* the same: two subsets without a
# single row in common can teach the same thing if the dataset is redundant.

# %%
draw_overlaps(overlaps(selected, pool_rows=len(rows)))

# %% [markdown]
# ## Which rows does each method exclude?
#
# Three kinds of rows are missing from a selection. Some cannot be trained on at all, such as rows without an answer. Some
# a method excludes by definition: Superfiltering and IterIT select no row with an IFD of 1 or more, GraphFilter and the
# others do. The remaining rows have a lower rank.

# %%
refused = {name: selection.provenance["exclusions"] for name, selection in selections.items()}
unusable = sum(next(iter(selections.values())).provenance["not_eligible"].values())
table = pd.DataFrame(
    {
        "selected": {name: len(at) for name, at in selected.items()},
        "refused": {name: sum(counts.values()) for name, counts in refused.items()},
        "selected with IFD of 1 or more": {name: int((ifd[at] >= 1).sum()) for name, at in selected.items()},
        "median words": {name: np.nanmedian(words[at]) for name, at in selected.items()},
    }
)
table.insert(2, "ranked lower", len(rows) - unusable - table["selected"] - table["refused"])
print(f"{len(rows):,} rows, {unusable:,} of them cannot be trained on")
print({name: dict(counts) for name, counts in refused.items() if counts})
table.head(len(table))

# %% [markdown]
# Most rows are selected by no method, since the budget is small.

# %%
by_score = [at for name, at in selected.items() if not name.startswith("Random")]
taken = np.unique(np.concatenate(by_score))
print(f"{len(taken):,} of {len(rows):,} rows are selected by at least one method other than Random")

# %% [markdown]
# Now read some rows. These are selected by one method only, which shows its preference better than any plot. Ask for
# each: would I want my model to answer like this?

# %%
for name, at in selected.items():
    others = np.concatenate([other for key, other in selected.items() if key != name])
    alone = at[~np.isin(at, others)]
    print(f"== {name}: {len(alone):,} rows that no other takes")
    for row in scored.select(alone[:2]):
        print({column: str(value)[:150] for column, value in row.items() if column in rows.column_names})

# %% [markdown]
# And these are excluded for an IFD of 1 or more. Some are broken rows. Others are correct and short, and the model did
# not need the instruction to predict them.

# %%
above = np.flatnonzero(ifd >= 1)
print(f"{len(above):,} rows")
for row in scored.select(above[:3]):
    print({column: str(value)[:150] for column, value in row.items() if column in rows.column_names})

# %% [markdown]
# ## What these plots do not show
#
# Which subset trains the better model. Plots describe a selection; only training on it and measuring, against random rows
# and with more than one seed, shows its value. `iterit_qlora_t4.ipynb` does the training; `select_and_publish.ipynb`
# pushes a selection to the Hub. All results depend on one scoring model: change `scoring_model`, run again, and see how
# much stays the same.
