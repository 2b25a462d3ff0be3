"""Gates: when an alias or a deployment may move. And lineage: what a version was made of."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from openmaas.client.answers import fetch
from openmaas.client.driver import Listing, Session, listing, operation
from openmaas.client.registry import API
from openmaas.client.steps import Operation, Request
from openmaas.core.errors import InvalidInput
from openmaas.core.names import check_alias, check_name, parse_reference
from openmaas.core.resources import GateDecision, GateInfo, GateRequest, GateTrial, GateVerdict, Lineage, Page, VersionInfo

_JSON = {"content-type": "application/json"}


class Gates(Session):
    """A gate is that of an alias, or of a deployment: exactly one of both is named."""

    @operation
    def set_gate(
        self,
        model: str,
        alias: str | None = None,
        *,
        deployment: str | None = None,
        data: str = "",
        baseline: str = "",
        metric: str = "",
        max_loss: float | None = None,
        minimum: float | None = None,
        max_p99: float | None = None,
        max_size: int | None = None,
        max_cost: float | None = None,
    ) -> Operation[GateInfo]:
        """Let an alias or a deployment move to a version of the model only where its newest evaluation holds every rule.

        data: the dataset that counts; without, that of the newest evaluation. baseline: what losses are measured against from
        now on; without, where the alias or the deployment stands. metric: the evaluation's usual one without.
        max_loss: of the metric, its upper 95% bound: a difference for metrics up to 1, a share of the baseline's for errors.
        minimum: of the metric's lower bound. max_p99: seconds at batch 1. max_size: bytes that the engine loads.
        max_cost: processor seconds for 1,000 rows.

        It takes the place of the target's gate, whose dataset, baseline and metric stay where none are given. `notes` of the
        answer say what was chosen. Raises NotFound, InvalidInput.
        """
        request = GateRequest(
            data=data,
            baseline=baseline,
            metric=metric,
            max_loss=max_loss,
            minimum=minimum,
            max_p99=max_p99,
            max_size=max_size,
            max_cost=max_cost,
        )
        parts = _parts(model, alias, deployment)
        return (yield from fetch(Request("PUT", parts, headers=_JSON, body=msgspec.json.encode(request)), GateInfo))

    @operation
    def gates(self, model: str | None = None) -> Operation[Sequence[GateInfo]]:
        """The gates of a model, or all. Raises NotFound."""
        parts = (*API, "gates") if model is None else (*API, "models", check_name(model), "gates")
        return (yield from fetch(Request("GET", parts), list[GateInfo]))

    @operation
    def gate(self, model: str, alias: str | None = None, *, deployment: str | None = None) -> Operation[GateInfo]:
        """One gate. Raises NotFound."""
        return (yield from fetch(Request("GET", _parts(model, alias, deployment)), GateInfo))

    @operation
    def remove_gate(self, model: str, alias: str | None = None, *, deployment: str | None = None) -> Operation[GateInfo]:
        """Take a gate away; what it decided stays. Raises NotFound."""
        return (yield from fetch(Request("DELETE", _parts(model, alias, deployment)), GateInfo))

    @operation
    def check_gate(
        self, reference: str, alias: str | None = None, *, deployment: str | None = None, engine: str = ""
    ) -> Operation[GateVerdict]:
        """Hold a version against a gate without moving anything. engine: that would serve it; without, the one that serves
        it, or would where none is asked for.

        Raises NotFound.
        """
        target = parse_reference(reference)
        number = target.number
        if number is None:
            number = (yield from fetch(Request("GET", (*API, "versions", str(target))), VersionInfo)).number
        body = msgspec.json.encode(GateTrial(number=number, engine=engine))
        parts = (*_parts(target.model, alias, deployment), "check")
        return (yield from fetch(Request("POST", parts, headers=_JSON, body=body), GateVerdict))

    @listing
    def gate_decisions(self, model: str, *, page_size: int | None = None) -> Listing[GateDecision]:
        """What the model's gates decided, newest first. Raises NotFound."""
        return Listing(Page[GateDecision], *API, "models", check_name(model), "gate-decisions", page_size=page_size)

    @operation
    def lineage(self, reference: str) -> Operation[Lineage]:
        """A version's ancestors up to the first, and all that was made of it. Raises NotFound."""
        return (yield from fetch(Request("GET", (*API, "versions", str(parse_reference(reference)), "lineage")), Lineage))


def _parts(model: str, alias: str | None, deployment: str | None) -> tuple[str, ...]:
    if (alias is None) == (deployment is None):
        raise InvalidInput(
            "Name either an alias or a deployment.",
            code="invalid_gate",
            next_step=f"openmaas gate ls {check_name(model)} shows the gates that there are.",
        )
    target = (
        ("deployment", check_name(deployment, "deployment")) if deployment is not None else ("alias", check_alias(alias or ""))
    )
    return (*API, "models", check_name(model), "gates", *target)
