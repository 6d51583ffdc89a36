"""[loss], [transfer], [optimizer], [federation], [warm_start]: how the networks learn."""

from typing import Annotated, Literal

from pydantic import Field

from m2fedsa.config.section import FROM_TOML, Count, NotNegative, Positive, Probability, Section, Share


class Loss(Section):
    """The supervised loss and the classifiers under it."""

    prior_adjusted: bool = True
    """Let a client's own class frequencies take the place of the global ones while it trains."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """Let all classes count alike, however frequent they are, as the unweighted average recall does: `weights` in the loss, by the global
    frequencies that the warm start counts; `sampling`: a client draws its classes alike."""
    classifier_dropout: Probability = 0.0
    """Dropout before the classifiers."""


class Transfer(Section):
    """Knowledge transfer from the fused representation to single modalities."""

    start: Annotated[int, Field(ge=1)] | Literal["never", "plateau", "authors"] = "plateau"
    """The first round of the transfer phase; `plateau`: when the fused loss falls no more, `authors`: when it moves in even steps,
    `never`: no such phase."""
    form: Literal["floored", "paper"] = "floored"
    """The decision level is weighted by one over the losses of labels, which tend to zero. `floored`: by no more than 1. `paper`: without
    such a bound."""
    weights: Annotated[tuple[NotNegative, NotNegative, NotNegative], FROM_TOML] = (0.6, 0.2, 0.2)
    """λ1 (labels), λ2 (decision level), λ3 (feature level)."""
    refresh: Count = 5
    """Rounds for which the teacher of unlabelled samples stays the same."""
    closed_form: bool = True
    """Let unlabelled samples enter the warm start with their soft labels, once."""
    unlabelled: bool = True
    """Train on unlabelled samples in the transfer phase."""
    teacher: Literal["fused", "self"] = "fused"
    """`self`: each modality is its own teacher, the baseline to beat."""
    temperature: Positive = 1.0
    """What the teacher's logits of unlabelled samples are divided by: above 1 its soft labels are softer, below 1 surer. Not of numbers."""
    confidence: NotNegative = 0.0
    """An unlabelled sample counts by its teacher's largest probability (of several classes, how sure it is of each in the mean), to this
    power; 0: all alike. Not of numbers."""


class Optimizer(Section):
    """AdamW on both sides."""

    learning_rate: Positive = 1e-4
    """Of the adapters; the others are relative to it."""
    weight_decay: NotNegative = 0.05
    """Of everything that trains."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate over the rounds; `cosine`: falls towards zero."""
    fusion_factor: Positive = 10.0
    """Learning rate of fusion and C_f relative to that of the adapters."""
    classifier_factor: Annotated[Positive | None, Field(examples=[0.1])] = None
    """Learning rate of C_m relative to that of the adapters; unset: 0.1 after a warm start, else 1."""
    moments: Literal["fresh", "averaged"] = "fresh"
    """`fresh`: AdamW begins anew in every round. `averaged`: its moments are averaged over clients like the tensors and carried on; three
    times the tensors then travel between clients and fed server, and rounds of few steps get further. Tensors that stay with their client
    begin anew."""
    clip_norm: Positive = 1.0
    """Largest norm of a party's gradients: MA, C_m, C_f on the client; TA and fusion on the main server."""


class Federation(Section):
    """The rounds."""

    rounds: Annotated[int, Field(ge=0)] = 300
    """How many; 0: the warm start alone."""
    clients_per_round: Annotated[Count | None, Field(examples=[1])] = None
    """Clients sampled for a round; unset: all."""
    min_clients: Count = 1
    """A round, or a warm start, that fewer finish does not count: it is repeated where clients are on machines of their own, else the run
    stops."""
    local_epochs: Count = 1
    """Passes of a client over its samples in a round."""
    local_steps: Annotated[Count | None, Field(examples=[10])] = None
    """A number of local steps instead of epochs; unset: epochs."""
    batch_size: Count = 32
    """Samples of a local step. With `clients_per_round` it bounds what the main server has in flight: it refuses larger ones."""
    batches: Literal["shuffled", "by_length"] = "shuffled"
    """`by_length`: texts of like length share a batch, which is then cut to the length of its longest."""
    split: bool = True
    """Whether tails, TA and fusion are on the main server. If not every client has them all, and only tensors travel: the same results at
    other costs."""
    client_update: Literal["parallel", "relay"] = "parallel"
    """`relay`: a client begins with what the one before it has made of the clients' tensors, and the last one's are the round's."""
    server_update: Literal["copies", "in_turn", "synchronous"] = "copies"
    """`copies`: the main server trains one copy per client and averages them. `in_turn`: one set, passed from client to client.
    `synchronous`: one set, stepped by the mean of the gradients of all clients' first steps, then of their second ones, and so on."""
    server_momentum: Probability = 0.0
    """Momentum of both servers on the change that a round brings; 0: none."""
    server_adam: Annotated[Positive | None, Field(examples=[0.01])] = None
    """Learning rate of Adam on that change, on both servers (FedAdam); unset: the average itself counts."""
    proximal: NotNegative = 0.0
    """μ of FedProx: half of it times the squared distance from the round's first tensors joins the loss."""
    warm_start: bool = True
    """Begin with classifiers in closed form, from sums that the clients send once; see [warm_start]."""


class WarmStart(Section):
    """Discriminant classifiers from the clients' sums, before the first round."""

    min_count: Count = 1
    """A client keeps back sums over fewer samples of a class; with 1 a sum may be a single sample."""
    shrinkages: Annotated[tuple[Share, ...], FROM_TOML, Field(min_length=1)] = (0.01, 0.03, 0.1, 0.2, 0.4, 0.7)
    """Of the covariance, to choose from: half of the samples make classifiers, the other half judge them."""
    scales: Annotated[tuple[Positive, ...], FROM_TOML, Field(min_length=1)] = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)
    """Of the logits, to choose from in the same way."""
    calibrate: bool = False
    """Choose the scales of modalities once more, on the validation samples of all clients. Training samples that resemble each other more
    than they resemble new ones (frames of a film, letters of a patient) make a modality look surer than it is. Scores on validation samples
    are a little too good from then on. Not for regressions, which have no scales, nor for `form = "joint"`."""
    form: Literal["apart", "joint"] = "apart"
    """`apart`: a discriminant for each modality, whose opinions add up. `joint`: one ridge regression on the features of all modalities
    side by side, zero where one lacks."""
    fused: bool = False
    """Begin with a C_f that corrects the sum of opinions from what the untrained fusion makes of all modalities: ridge regression on what
    the sum leaves unexplained. Relations between modalities are known so before the first round."""
