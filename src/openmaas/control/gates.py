"""Gates: the conditions under which an alias or a deployment may move to a version.

A gate binds one alias of a model, or one public name that the model is deployed under. A move is allowed when the newest
evaluation that counts (control/gate_evidence.py), of exactly that version on exactly the gate's dataset, holds every rule:

    max_loss    the upper 95% bound of the paired loss against the baseline's newest evaluation over the same rows
    minimum     the lower bound of the metric (of an error: the upper)
    max_p99     seconds of a call at batch 1; max_cost: processor seconds for 1,000 rows; both on this server's processor, and
                no better than the median of all evaluations that count
    max_size    bytes that the engine loads

What was not measured has not passed: no evaluation, none of these rows, no figures, those of another processor, or of another
engine than the one that will serve. Where deployments serve the version by several, every one must hold. The refusal names the
command that measures it. Evidence tells how many evaluations there are, how many count, and the worst of these.

The baseline is fixed when the gate is set. It stays when the gate is set again without one, also after it was taken away, so
that many small losses cannot add up. Every wish to move leaves a row of decision with its rules, figures and jobs, in the
transaction of the move; of a refusal the row is all that is written. Forced moves are rows too, with who forced them and the
reason.

A rollback goes back to where a name stood before, whatever its gate says of that; it leaves a row as a forced move does.
Removing an alias and stopping a deployment move nothing to a version, and ask no gate.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from openmaas.control.details import check_text
from openmaas.control.gate_evidence import evidence
from openmaas.control.gate_rows import gate_arguments, last_rules, live_gate, live_gates, rules_of, target_label
from openmaas.control.gate_rules import Held, Measured, Subject, check_rules, in_words
from openmaas.control.gate_settings import settle_rules
from openmaas.control.paging import DEFAULT_LIMIT, check_limit, make_page, number_after
from openmaas.control.references import find_model, find_version
from openmaas.control.serving import Ways, serving
from openmaas.core.errors import InvalidInput, NotFound, OpenMaaSError, Refused
from openmaas.core.evaluations import Check, Estimate, Rules
from openmaas.core.hardware import Processor, processor
from openmaas.core.log import get_logger
from openmaas.core.metrics import loss
from openmaas.core.names import DEFAULT_PROJECT, Reference, check_alias, check_name
from openmaas.core.resources import GateDecision, GateInfo, GateRequest, GateTarget, GateTrial, GateVerdict, Page
from openmaas.formats.ways import ways_to_run
from openmaas.store.database import Database
from openmaas.store.tables import GateDecisionRow, GateRow, ModelRow, VersionRow

ROLLBACK: Final = "Back to where it stood before."
"""The reason that is kept with a rollback."""
MOST_REASON: Final = 2000
"""Bytes of the reason of a forced move."""
_SEED: Final = 0  # always the same: who asks again gets the same answer
_REMEMBERED: Final = 256  # losses

_log = get_logger("gate")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """To move a target to a version. previous: the number that it stands at. engine: that will serve it; empty where the one
    counts that serves it now, or would unasked. pending: what will serve is not known yet. reason: of one that is forced."""

    target: GateTarget
    name: str
    model: ModelRow
    version: VersionRow
    previous: int | None
    actor: str
    force: bool = False
    reason: str = ""
    engine: str = ""
    pending: bool = False


class GateService:
    """Sets gates, and decides by them. here: the processor that figures must be of. ways: in which a version could be run."""

    def __init__(
        self,
        database: Database,
        here: Callable[[], Processor] = processor,
        clock: Callable[[], float] = time.time,
        ways: Ways = ways_to_run,
    ) -> None:
        self._database = database
        self._here = here
        self._ways = ways
        self._clock = clock
        self._losses: OrderedDict[tuple[int, int, str], Estimate] = OrderedDict()
        self._remembering = Lock()

    # looking

    def list(self, model: str | None = None, *, project: str = DEFAULT_PROJECT) -> Sequence[GateInfo]:
        """The gates of a model, or all. Raises NotFound."""
        with self._database.read() as session:
            row = None if model is None else find_model(session, project, model)
            return [_view(found, gate) for found, gate in live_gates(session, project, row)]

    def get(self, model: str, target: GateTarget, name: str, *, project: str = DEFAULT_PROJECT) -> GateInfo:
        """Raises NotFound."""
        with self._database.read() as session:
            return _view(*_find(session, project, model, target, name))

    def decisions(
        self, model: str, *, project: str = DEFAULT_PROJECT, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[GateDecision]:
        """A page of what the model's gates decided, newest first. Raises NotFound."""
        check_limit(limit)
        before = number_after(after)
        with self._database.read() as session:
            row = find_model(session, project, model)
            query = select(GateDecisionRow).where(GateDecisionRow.model_id == row.id)
            total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
            if before is not None:
                query = query.where(GateDecisionRow.id < before)
            found = session.scalars(query.order_by(GateDecisionRow.id.desc()).limit(limit + 1)).all()
            return make_page(found, limit, total, lambda one: one.id, lambda some: [_decision(one, row.name) for one in some])

    def check(
        self, model: str, target: GateTarget, name: str, trial: GateTrial, *, project: str = DEFAULT_PROJECT
    ) -> GateVerdict:
        """Hold a version against a gate without moving anything. Raises NotFound."""
        with self._database.read() as session:
            row, gate = _find(session, project, model, target, name)
            _, version = find_version(session, project, Reference(row.name, number=trial.number))
            checks = self._check(session, row, version, rules_of(gate), trial.engine)
        plain = [msgspec.to_builtins(one) for one in checks]
        passed = all(one.passed for one in checks)
        return GateVerdict(gate=_view(row, gate), version=f"{row.name}:{version.number}", passed=passed, checks=plain)

    # setting

    def set(
        self,
        model: str,
        target: GateTarget,
        name: str,
        request: GateRequest,
        *,
        actor: str,
        project: str = DEFAULT_PROJECT,
    ) -> GateInfo:
        """Set a gate, in place of the one that the target has. `notes` say what was chosen for what the request leaves open.

        Raises InvalidInput for rules that are none or out of bounds, for a metric that the baseline's evaluation has not, and
        where a dataset or a metric cannot be chosen; NotFound for a model, dataset or version that there is not.
        """
        _check_target(target, name)
        with self._database.write() as session:
            row = find_model(session, project, model)
            rules, notes = settle_rules(session, row, target, name, request, last_rules(session, row, target, name))
            gate = self._add(session, row, target, name, rules, actor)
            baseline = self._baseline(session, project, rules)
            if baseline is not None and baseline.measured is None:
                notes.append(f"{baseline.missing}: {baseline.evaluate}")
        _log.info("set", gate=target_label(row.name, target, name), actor=actor)
        return replace(_view(row, gate), notes=notes)

    def remove(self, model: str, target: GateTarget, name: str, *, actor: str, project: str = DEFAULT_PROJECT) -> GateInfo:
        """Take a gate away; what it decided stays. It as it was. Raises NotFound."""
        with self._database.write() as session:
            row, gate = _find(session, project, model, target, name)
            self._add(session, row, target, name, None, actor)
        _log.info("removed", gate=target_label(row.name, target, name), actor=actor)
        return _view(row, gate)

    def _add(
        self, session: Session, model: ModelRow, target: GateTarget, name: str, rules: Rules | None, actor: str
    ) -> GateRow:
        text = None if rules is None else msgspec.json.encode(rules).decode()
        row = GateRow(
            project=model.project, model_id=model.id, target=target, name=name, rules=text, actor=actor, at=self._clock()
        )
        session.add(row)
        session.flush()
        return row

    # deciding

    def prepare(self, model: str, target: GateTarget, name: str, number: int, *, project: str = DEFAULT_PROJECT) -> None:
        """Compute what a decision will need before its transaction, which would keep others waiting. Raises nothing of ours."""
        try:
            self.check(model, target, name, GateTrial(number=number), project=project)
        except (NotFound, InvalidInput):  # the move will say so
            return

    def decide(self, session: Session, wish: Wish) -> Refused | None:
        """Whether a target may move, within the transaction of the move, which keeps the decision with its evidence.

        None where it may, and where it has no gate. The refusal is returned and not raised: the transaction must commit,
        without the move, and then raise it. What is pending is decided once more when it is not; so of it nothing but a refusal
        is kept.
        """
        gate = live_gate(session, wish.model, wish.target, wish.name)
        if gate is None:
            return None
        rules = rules_of(gate)
        checks = self._check(session, wish.model, wish.version, rules, wish.engine, pending=wish.pending)
        failed = [one for one in checks if not one.passed]
        outcome = "passed" if not failed else "forced" if wish.force else "refused"
        if not wish.pending or outcome == "refused":
            self._keep(session, wish, gate, checks, outcome)
        if outcome != "refused":
            return None
        return _refusal(wish, rules, failed)

    def known_to_serve(self, session: Session, version: VersionRow, engine: str) -> bool:
        """Whether gates of aliases are asked about this engine anyway: it serves the version, or would where none is named."""
        return engine in serving(session, version, self._here, self._ways).engines

    def _keep(self, session: Session, wish: Wish, gate: GateRow, checks: Sequence[Check], outcome: str) -> None:
        session.add(
            GateDecisionRow(
                project=wish.model.project,
                gate_id=gate.id,
                model_id=wish.model.id,
                target=wish.target,
                name=wish.name,
                number=wish.version.number,
                previous=wish.previous,
                outcome=outcome,
                rules=gate.rules,
                checks=msgspec.json.encode(checks).decode(),
                reason=wish.reason if outcome == "forced" else "",
                actor=wish.actor,
                at=self._clock(),
            )
        )
        label = target_label(wish.model.name, wish.target, wish.name)
        _log.info(outcome, gate=label, version=f"{wish.model.name}:{wish.version.number}", actor=wish.actor)

    def _check(
        self, session: Session, model: ModelRow, version: VersionRow, rules: Rules, engine: str, *, pending: bool = False
    ) -> Sequence[Check]:
        """Of each rule the check that fails for an engine that serves, else that of the first."""
        reference = f"{model.name}:{version.number}"
        subjects = self._subjects(session, version, reference, rules, engine, pending=pending)
        baseline = self._baseline(session, model.project, rules)
        held = [Held(subject=one, baseline=baseline, here=self._here(), loss=self._loss) for one in subjects]
        found = zip(*(check_rules(rules, one) for one in held), strict=True)
        return [next((one for one in same if not one.passed), same[0]) for same in found]

    def _subjects(
        self, session: Session, version: VersionRow, reference: str, rules: Rules, engine: str = "", *, pending: bool = False
    ) -> Sequence[Subject]:
        """The version by each engine that serves it, or that will."""
        if pending:
            return [evidence(session, version.project, reference, version.digest, rules.dataset, "")]
        now = serving(session, version, self._here, self._ways)
        engines = (engine,) if engine else now.engines
        found = [
            evidence(session, version.project, reference, version.digest, rules.dataset, one, asked=one not in now.engines[:1])
            for one in engines
        ]
        return found or [_unknown(reference, version, now.measuring)]

    def _baseline(self, session: Session, project: str, rules: Rules) -> Subject | None:
        """None where the rules name none. By the engine that serves it, as what is held against it."""
        if rules.max_loss is None:
            return None
        reference = rules.baseline
        try:
            _, version = find_version(session, project, reference)
        except OpenMaaSError:
            gone = f"the baseline {reference or '(none)'} is gone"
            return Subject(version=reference, digest="", missing=gone, evaluate="Set the gate again with --baseline.")
        subjects = self._subjects(session, version, reference, rules)
        return next((one for one in subjects if one.measured is not None), subjects[0])

    def _loss(self, before: Measured, after: Measured, metric: str) -> Estimate:
        """Remembered, since evaluations never change and thousands of resamples take their time."""
        key = before.id, after.id, metric
        with self._remembering:
            found = self._losses.get(key)
        if found is None:
            assert before.evaluation.outcomes is not None
            assert after.evaluation.outcomes is not None
            found = loss(metric, before.evaluation.outcomes, after.evaluation.outcomes, _SEED)
        with self._remembering:
            self._losses[key] = found
            self._losses.move_to_end(key)
            while len(self._losses) > _REMEMBERED:
                self._losses.popitem(last=False)
        return found


def check_force(force: bool, reason: str) -> None:
    """Raises InvalidInput for what is forced without a reason, and for a reason without force."""
    check_text(reason, "reason", MOST_REASON)
    if force and not reason.strip():
        raise InvalidInput(
            "What is forced needs a reason, which is kept with the name of who did it.",
            code="reason_required",
            next_step="Give it with --reason TEXT.",
        )
    if reason and not force:
        raise InvalidInput(
            "A reason is kept with what is forced only.", code="reason_without_force", next_step="Add --force, or leave it out."
        )


def _check_target(target: GateTarget, name: str) -> str:
    return check_alias(name) if target == "alias" else check_name(name, "deployment")


def _find(session: Session, project: str, model: str, target: GateTarget, name: str) -> tuple[ModelRow, GateRow]:
    _check_target(target, name)
    row = find_model(session, project, model)
    gate = live_gate(session, row, target, name)
    if gate is None:
        raise NotFound(
            f"There is no gate of {target_label(row.name, target, name)}.",
            code="gate_not_found",
            next_step=f"openmaas gate set {gate_arguments(row.name, target, name)} --max-loss 0.5% sets one.",
        )
    return row, gate


def _unknown(reference: str, version: VersionRow, measuring: str) -> Subject:
    """One of which nobody can tell which engine would serve it."""
    subject = Subject(version=reference, digest=version.digest)
    if measuring:
        missing = f"{measuring} is still finding out which engine would serve {reference}"
        return replace(subject, missing=missing, evaluate=f"openmaas jobs show {measuring} --wait")
    missing = f"no engine here runs {reference} as it is"
    return replace(subject, missing=missing, evaluate=f"openmaas convert {reference} --to onnx")


def _refusal(wish: Wish, rules: Rules, failed: Sequence[Check]) -> Refused:
    """Each rule that did not pass, with its limit and what was measured, and what to do."""
    model = wish.model.name
    version = f"{model}:{wish.version.number}"
    label = target_label(model, wish.target, wish.name)
    said = in_words(failed, rules.metric)
    measure = next((one.next_step for one in failed if one.next_step), "")
    option = wish.name if wish.target == "alias" else f"--deployment {wish.name}"
    look = f"openmaas gate check {version} {option} shows each rule; --force --reason TEXT moves it all the same."
    return Refused(f"The gate of {label} refuses {version}: {said}.", code="gate_refused", next_step=measure or look)


def _view(model: ModelRow, gate: GateRow) -> GateInfo:
    rules = msgspec.json.decode(gate.rules or "{}")
    return GateInfo(model=model.name, target=gate.target, name=gate.name, rules=rules, actor=gate.actor, at=gate.at)


def _decision(row: GateDecisionRow, model: str) -> GateDecision:
    return GateDecision(
        id=row.id,
        model=model,
        target=row.target,
        name=row.name,
        number=row.number,
        previous=row.previous,
        outcome=row.outcome,
        rules=msgspec.json.decode(row.rules),
        checks=msgspec.json.decode(row.checks),
        reason=row.reason,
        actor=row.actor,
        at=row.at,
    )
