"""Evaluation: the loss of held-out rows, exact match of generated answers, and statistics of training runs.

The statistics read arrays: one number per training run, or one per run and question. The unit of evidence is the
training run, since the claim about a method is about the next run, not about the weights of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_datasel._lazy import lazy_imports

if TYPE_CHECKING:
    from hf_datasel.evaluation.code import (
        CodeResults as CodeResults,
        CodeTask as CodeTask,
        pass_at_k as pass_at_k,
    )
    from hf_datasel.evaluation.exact_match import MatchedAnswers as MatchedAnswers, match_answers as match_answers
    from hf_datasel.evaluation.experiment import Experiment as Experiment
    from hf_datasel.evaluation.experiment_results import ExperimentResults as ExperimentResults, RunResult as RunResult
    from hf_datasel.evaluation.harness import HarnessTask as HarnessTask
    from hf_datasel.evaluation.harness_results import HarnessResults as HarnessResults
    from hf_datasel.evaluation.heldout import HeldoutLoss as HeldoutLoss, heldout_loss as heldout_loss
    from hf_datasel.evaluation.heldout_rows import rows_in_pool as rows_in_pool
    from hf_datasel.evaluation.item_statistics import (
        bootstrap_two_models as bootstrap_two_models,
        crossed_bootstrap as crossed_bootstrap,
        mcnemar_two_models as mcnemar_two_models,
        variance_components as variance_components,
    )
    from hf_datasel.evaluation.metrics import ExactMatch as ExactMatch
    from hf_datasel.evaluation.model_results import ModelResults as ModelResults, evaluate_model as evaluate_model
    from hf_datasel.evaluation.plan import Plan as Plan, PlannedMethod as PlannedMethod
    from hf_datasel.evaluation.rank_sum import mann_whitney as mann_whitney
    from hf_datasel.evaluation.selections import evaluate_selections as evaluate_selections
    from hf_datasel.evaluation.statistics import (
        compare_tasks as compare_tasks,
        compare_with_control as compare_with_control,
        minimum_detectable_effect as minimum_detectable_effect,
        non_inferiority as non_inferiority,
        pooled_sd as pooled_sd,
    )
    from hf_datasel.evaluation.suites import (
        Suite as Suite,
        get_suite as get_suite,
        list_suites as list_suites,
        read_tasks as read_tasks,
    )
    from hf_datasel.evaluation.tables import MethodRuns as MethodRuns, results_table as results_table
    from hf_datasel.evaluation.task import (
        DatasetTask as DatasetTask,
        ExactMatchTask as ExactMatchTask,
        HeldoutTask as HeldoutTask,
        Task as Task,
    )
    from hf_datasel.scoring.normalization import Normalization as Normalization

__getattr__, __dir__, __all__ = lazy_imports(__name__, __file__)
