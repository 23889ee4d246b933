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
# Six ways to choose the same number of rows from the same dataset. What do they take, what do they leave, and do they
# agree?
#
# **At the end you have** a feeling for what each method prefers, before you spend GPU hours on training with one of
# them, and you know what the plots cannot tell.
#
# **What it costs.** One pass of a small model over the rows, best on a GPU: the free T4 of Colab will do. By default
# that is the first 5,000 rows of Alpaca; choosing afterwards needs no model and no GPU. Nothing is published, and
# public datasets and models need no account.

# %% [markdown]
# ## Set up

# %% tags=["skip-execution"]
# !pip install -Uq "hf-datasel[plot]"

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
# and above it does not. `loss` is how badly the model guesses the answer, given the instruction. `response_words`
# needs no model. A row that cannot be scored gets no number but a reason.

# %%
rows = load_dataset(dataset_name, split=split)
scored = score(rows, [IFD(scoring_model, convention=convention), Length()])
scored.select_columns(["ifd", "loss", "response_words"]).to_pandas().describe()

# %% [markdown]
# ## Choose six times, and once more
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
chosen = {name: selection.indices for name, selection in selections.items()}

# %% [markdown]
# ## Where in the scores do they choose?
#
# Grey is the whole dataset; lines are choices. Each curve is a share of its *own* rows, so heights say nothing about
# how many rows there are. Triangles mark medians.
#
# **How to read it.** `Random` should follow the grey; how far it strays shows how much so few rows wobble by chance. A
# method by IFD that refuses 1 and above piles up just below 1. If it stands there as one thin spike, it looks at IFD
# and at nothing else; IterIT, which also looks for new words, spreads further down.
#
# **What it cannot tell.** Whether a high IFD is a good row: a wrong answer and a hard question both raise it.

# %%
ifd = np.array(scored["ifd"][:], dtype=float)
few = ["IterIT", "Longest", "Random"]
draw_scores(distribution("ifd", {"all rows": ifd, **{name: ifd[chosen[name]] for name in few}}))

# %% [markdown]
# The same for all of them, one below the other. Here each curve is as high as its own fullest bin: compare places and
# shapes, not heights.

# %%
draw_lengths(distribution("ifd", {"all rows": ifd, **{name: ifd[at] for name, at in chosen.items()}}))

# %% [markdown]
# ## How long are the answers?
#
# **How to read it.** The axis is logarithmic: a step to the right multiplies the length. The black line is the median.
# Loss and IFD are means over the tokens of an answer, and a short answer's mean is taken over few of them, so it
# swings further up and down. Look whether a method by score sits to the left of the grey: then it may be choosing
# short answers more than hard ones.
#
# **What it cannot tell.** Whether length is good. Models trained on long answers write long answers, which judges
# often prefer for no other reason. If two methods differ in length, compare both with `Longest` before you credit the
# score.

# %%
words = np.array(scored["response_words"][:], dtype=float)
groups = {"all rows": words, **{name: words[at] for name, at in chosen.items()}}
draw_lengths(distribution("words in the response", groups, log=True))

# %% [markdown]
# ## Do they agree?
#
# Each cell is the Jaccard similarity of two choices: rows in both over rows in either. 1 is the same rows, 0 is none
# in common.
#
# **How to read it.** Start with `Random` and `Random again`, and with the number below the matrix: that is chance. A
# pair near it has nothing to do with each other. Two methods far above it share a preference, here usually IFD.
#
# **What it cannot tell.** Which of two choices is better, or whether they *mean* the same: two subsets without a
# single row in common can teach the same thing if the dataset says everything many times.

# %%
draw_overlaps(overlaps(chosen, pool_rows=len(rows)))

# %% [markdown]
# ## What does each leave out?
#
# Three kinds of rows are missing from a choice. Some cannot be trained on at all, such as rows without an answer. Some
# a method refuses on principle: Superfiltering and IterIT take no row with an IFD of 1 or more, GraphFilter and the
# others do. The rest just ranked lower.

# %%
refused = {name: selection.provenance["left_out"] for name, selection in selections.items()}
unusable = sum(next(iter(selections.values())).provenance["not_eligible"].values())
table = pd.DataFrame(
    {
        "chosen": {name: len(at) for name, at in chosen.items()},
        "refused": {name: sum(counts.values()) for name, counts in refused.items()},
        "chosen with IFD of 1 or more": {name: int((ifd[at] >= 1).sum()) for name, at in chosen.items()},
        "median words": {name: np.nanmedian(words[at]) for name, at in chosen.items()},
    }
)
table.insert(2, "ranked lower", len(rows) - unusable - table["chosen"] - table["refused"])
print(f"{len(rows):,} rows, {unusable:,} of them cannot be trained on")
print({name: dict(counts) for name, counts in refused.items() if counts})
table.head(len(table))

# %% [markdown]
# Most rows are left out by all of them: with a small budget, that is what a budget does.

# %%
by_score = [at for name, at in chosen.items() if not name.startswith("Random")]
taken = np.unique(np.concatenate(by_score))
print(f"{len(taken):,} of {len(rows):,} rows are chosen by at least one method other than Random")

# %% [markdown]
# Now read. These are rows that one method takes and no other does, which shows its taste better than any plot. Ask of
# each: would I want my model to answer like this?

# %%
for name, at in chosen.items():
    others = np.concatenate([other for key, other in chosen.items() if key != name])
    alone = at[~np.isin(at, others)]
    print(f"== {name}: {len(alone):,} rows that no other takes")
    for row in scored.select(alone[:2]):
        print({column: str(value)[:150] for column, value in row.items() if column in rows.column_names})

# %% [markdown]
# And these are refused for an IFD of 1 or more. Some are broken rows that you are glad to be rid of. Others are sound
# and short, and the model merely did not need the instruction to guess them.

# %%
above = np.flatnonzero(ifd >= 1)
print(f"{len(above):,} rows")
for row in scored.select(above[:3]):
    print({column: str(value)[:150] for column, value in row.items() if column in rows.column_names})

# %% [markdown]
# ## What none of this tells you
#
# Which subset trains the better model. Plots describe a choice; only training on it and measuring, against random rows
# and with more than one seed, says what it is worth. `iterit_qlora_t4.ipynb` does the training;
# `select_and_publish.ipynb` puts a choice on the Hub. And all of it rests on one scoring model: change
# `scoring_model`, run again, and see how much of the picture stays.
