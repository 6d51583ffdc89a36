"""The methods that can be compared, and the parts of the method that can be taken away, each as a name for settings.

All share encoders, network, loss, samples, partition, metrics and ledger with the method. They differ in what trains, where it is
computed and what is averaged; none of the methods but the closed form has a warm start or transfer, which belong to the method.
A setting `modalities.*.key` is one of every modality.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from m2fedsa.config import Config
from m2fedsa.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """A name's meaning: a sentence, and settings as `--set` takes them."""

    summary: str
    settings: tuple[str, ...] = ()

    def of(self, config: Config) -> Config:
        """The settings with the method's own in place."""
        if not self.settings:
            return config
        more = []
        if "federation.warm_start=false" in self.settings and config.loss.balance == "weights":
            # Weights need the counts of the warm start; drawing classes equally often is what comes closest without.
            more.append("loss.balance=sampling")
        if "data.arrangement=pooled" in self.settings and config.federation.local_steps is not None:
            # As many steps in one place as all clients of a round take together.
            taking_part = config.federation.clients_per_round or config.data.clients
            more.append(f"federation.local_steps={config.federation.local_steps * taking_part}")
        return config.override([*self.settings, *more], "the method's")


_CLIENTS = 'averaging.rules=[{pattern="*", over="clients"}]'
_PLAIN = ("transfer.start=never", "transfer.closed_form=false", "federation.warm_start=false", _CLIENTS)
"""No transfer, no warm start, no average over modalities."""
_UNSPLIT = (*_PLAIN, "federation.split=false")
_WHOLE = ("modalities.*.frozen=false", "modalities.*.modality_adapter=false", "modalities.*.task_adapter=false")
"""Encoders that train, without adapters."""

METHODS: Mapping[str, Method] = {
    "m2fedsa": Method("the settings as they are"),
    "closed_form": Method(
        "discriminant classifiers of frozen features from sums that clients send once (as AFL, Fed3R), and the sum of what they say",
        ("federation.rounds=0", "federation.warm_start=true", "transfer.closed_form=false"),
    ),
    "closed_form_joint": Method(
        "ridge regression on the frozen features of all modalities side by side, zero where one lacks, from sums that clients send once",
        (
            "federation.rounds=0",
            "federation.warm_start=true",
            "warm_start.form=joint",
            "warm_start.calibrate=false",
            "transfer.closed_form=false",
        ),
    ),
    "closed_form_fused": Method(
        "closed_form, corrected by ridge regression on what the untrained fusion makes of all modalities",
        ("federation.rounds=0", "federation.warm_start=true", "warm_start.fused=true", "transfer.closed_form=false"),
    ),
    "closed_form_calibrated": Method(
        "closed_form, its scales chosen once more on validation samples",
        ("federation.rounds=0", "federation.warm_start=true", "warm_start.calibrate=true", "transfer.closed_form=false"),
    ),
    "local": Method(
        "each client alone: nothing is averaged, test samples are dealt out to the clients",
        (
            *_PLAIN,
            "federation.split=false",
            "data.arrangement=apart",
            'averaging.rules=[{pattern="*", over="nothing"}]',
        ),
    ),
    "centralised": Method(
        "all training samples in one place, the same network: what federation costs",
        ("transfer.start=never", "data.arrangement=pooled", "federation.clients_per_round=none", "federation.split=false"),
    ),
    "fedavg": Method("FedAvg: clients train whole encoders, which are averaged", (*_UNSPLIT, *_WHOLE)),
    "fedpeft": Method("FedPEFT: clients hold whole frozen encoders and train adapters, which are averaged", _UNSPLIT),
    "fedprox": Method("FedProx: fedpeft with a pull to the global tensors", (*_UNSPLIT, "federation.proximal=0.01")),
    "fedadam": Method(
        "FedAdam: fedpeft with Adam on the servers",
        (*_UNSPLIT, "federation.server_adam=0.01", "federation.server_momentum=0.0"),
    ),
    "splitfed_v1": Method("SplitFed V1: encoders cut in two train whole, both sides are averaged", (*_PLAIN, *_WHOLE)),
    "splitfed_v2": Method(
        "SplitFed V2: one server side, stepped by each client in turn; clients' sides are averaged",
        (*_PLAIN, *_WHOLE, "federation.server_update=in_turn"),
    ),
    "split_learning": Method(
        "split learning: one client after the other, each from the last one's weights, and one server side",
        (*_PLAIN, *_WHOLE, "federation.server_update=in_turn", "federation.client_update=relay"),
    ),
    "late_fusion": Method(
        "a federation of each modality by itself, and as fused the sum of what they say",
        (*_PLAIN, "fusion.learned=false"),
    ),
    "mpsl": Method(
        "MPSL: clients embed, one shared server side is stepped by the mean gradient of all clients",
        (
            *_PLAIN,
            "modalities.*.block=0",
            "modalities.*.readable_text=true",
            "modalities.*.modality_adapter=false",
            "federation.server_update=synchronous",
        ),
    ),
    "zero_filled": Method(
        "as FedMultimodal: modalities that lack are filled with zeros, fedpeft on top",
        (*_UNSPLIT, "data.absent=zeros"),
    ),
}

ABLATIONS: Mapping[str, Method] = {
    "no_ma": Method("no adapter on the client", ("modalities.*.modality_adapter=false",)),
    "no_ta": Method("no adapter on the main server", ("modalities.*.task_adapter=false",)),
    "no_modality_average": Method("the update part of TA is averaged over clients alone", (_CLIENTS,)),
    "whole_ta": Method(
        "all of TA is averaged over modalities, whose widths must be equal",
        ('averaging.rules=[{pattern="*.ta.*", over="modalities"}]',),
    ),
    "no_fusion": Method("modalities train apart, fused is the sum of what they say", ("fusion.learned=false",)),
    "paper_fusion": Method(
        "attention alone, without the sum of logits",
        ("fusion.bilinear=false", "fusion.feed_forward=0", "fusion.late=false", "fusion.gradient_to_encoders=false"),
    ),
    "no_bilinear": Method("no products of pairs of modalities", ("fusion.bilinear=false",)),
    "no_gradient_to_encoders": Method("the fused loss trains fusion alone", ("fusion.gradient_to_encoders=false",)),
    "modality_dropout": Method("modalities are left out of fusion at random", ("fusion.modality_dropout=0.3",)),
    "paper_transfer": Method(
        "transfer of the paper: the decision level without a bound on its weight, and none of unlabelled samples",
        ("transfer.form=paper", "transfer.unlabelled=false", "transfer.closed_form=false"),
    ),
    "no_transfer": Method("no transfer, of soft labels in the warm start neither", ("transfer.start=never", "transfer.closed_form=false")),
    "no_decision_level": Method("λ2 = 0", ("transfer.weights=[0.6, 0.0, 0.2]",)),
    "no_feature_level": Method("λ3 = 0", ("transfer.weights=[0.6, 0.2, 0.0]",)),
    "authors_start": Method("transfer starts by the rule of the authors' code", ("transfer.start=authors",)),
    "plateau_start": Method("transfer starts when the loss falls no more", ("transfer.start=plateau",)),
    "fixed_start": Method("transfer starts in the first round", ("transfer.start=1",)),
    "no_warm_start": Method("classifiers begin at zero", ("federation.warm_start=false",)),
    "fused_warm_start": Method("the fused classifier begins in closed form too", ("warm_start.fused=true",)),
    "calibrated": Method("scales of the warm start are chosen once more on validation samples", ("warm_start.calibrate=true",)),
    "not_prior_adjusted": Method("the plain cross-entropy", ("loss.prior_adjusted=false",)),
    "in_turn": Method("one server side, stepped by each client in turn", ("federation.server_update=in_turn",)),
    "synchronous": Method("one server side, stepped by the mean gradient of all clients", ("federation.server_update=synchronous",)),
    "averaged_moments": Method("AdamW goes on from round to round, its moments averaged over clients", ("optimizer.moments=averaged",)),
    "server_momentum": Method("momentum 0.9 on the servers", ("federation.server_momentum=0.9",)),
    "no_rounds": Method("the warm start alone, soft labels of unlabelled samples in it", ("federation.rounds=0",)),
    "int8_wire": Method(
        "activations, features and their gradients travel in eight bits, with a scale per token", ("wire.up=int8", "wire.down=int8")
    ),
    "best_by_loss": Method(
        "the round of least loss on validation samples is kept", ("evaluation.metric=loss", "evaluation.keep_best=true")
    ),
    "self_teaching": Method("each modality is its own teacher", ("transfer.teacher=self",)),
    "sharper_teacher": Method("soft labels at temperature 0.5", ("transfer.temperature=0.5",)),
    "softer_teacher": Method("soft labels at temperature 2", ("transfer.temperature=2.0",)),
    "confident_teacher": Method("unlabelled samples count by their teacher's confidence", ("transfer.confidence=1.0",)),
}


def named(name: str) -> Method:
    """A method or an ablation; `ConfigError` names the nearest if there is none."""
    known = {**METHODS, **ABLATIONS}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"Did you mean {near[0]}?" if near else "`m2fedsa compare --list` tells which there are."
        raise ConfigError(f"--methods: {name!r} is no method. {advice}")
    return known[name]
