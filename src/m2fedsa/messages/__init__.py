"""What the parties say to each other: frozen dataclasses of tensors, each knows its bytes.

Client and main server exchange `Activations`, `Features`, `Gradients` and `ActivationGradients`, in this order, once per step
(`steps`). Fed server and main server exchange `RoundPlan`, `Acceptance` and `Averaged` (`rounds`). Fed server and clients exchange
`tasks` and `results`.
"""

from m2fedsa.messages.results import ClassSums, EvaluateResult, Failure, JudgeResult, KeepResult, Result, SumsResult, TrainResult
from m2fedsa.messages.rounds import Acceptance, Averaged, Phase, RoundPlan
from m2fedsa.messages.steps import (
    ALL,
    Activation,
    ActivationGradients,
    Activations,
    EvaluationReply,
    EvaluationRequest,
    Features,
    Gradients,
    InputSpec,
    Subset,
    Traffic,
    restricted,
)
from m2fedsa.messages.tasks import (
    ClientInfo,
    Evaluated,
    EvaluateTask,
    GlobalView,
    Judged,
    JudgeTask,
    KeepTask,
    Summed,
    SumsTask,
    Task,
    TrainTask,
)

__all__ = [
    "ALL",
    "Acceptance",
    "Activation",
    "ActivationGradients",
    "Activations",
    "Averaged",
    "ClassSums",
    "ClientInfo",
    "EvaluateResult",
    "EvaluateTask",
    "Evaluated",
    "EvaluationReply",
    "EvaluationRequest",
    "Failure",
    "Features",
    "GlobalView",
    "Gradients",
    "InputSpec",
    "JudgeResult",
    "JudgeTask",
    "Judged",
    "KeepResult",
    "KeepTask",
    "Phase",
    "Result",
    "RoundPlan",
    "Subset",
    "Summed",
    "SumsResult",
    "SumsTask",
    "Task",
    "Traffic",
    "TrainResult",
    "TrainTask",
    "restricted",
]
