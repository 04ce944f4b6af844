"""What was decided about a pool's capacity, in words and with its inputs: said once, when it changes."""

from datetime import datetime
from typing import Any

from greenroom.common.messages import Decision
from greenroom.scheduler.capacity import PoolAssessment


def decisions(
    before: PoolAssessment | None, after: PoolAssessment, now: datetime, *, policy_revision: int = 0
) -> tuple[Decision, ...]:
    """Return the decisions that an assessment brought.

    Args:
        before: the assessment that this one follows; None: the first.
        after: the one that was made now.
        now: the time.
        policy_revision: of the policy that it was made by.
    """
    state = after.state
    rows: list[tuple[str, str, str, dict[str, Any]]] = []
    if after.scale is not None:
        text = f"{state.warm} warm slots free and {state.waiting} callers waiting, {state.target} wanted"
        rows.append(("scale", "warm-below-target", f"group set to {after.scale}: {text}", {"count": after.scale}))
    for step in after.retire:
        who = {"runner_id": step.runner_id, "instance": step.instance.id, "step": step.step, "idle_s": step.idle_s}
        done = "told to drain" if step.step == "drain" else "drained and empty, let go"
        text = f"runner {step.runner_id} {done}: {state.warm} warm slots free, {state.target} wanted"
        rows.append(("retire", "idle", text, who))
    was, hold = before.hold if before else None, after.hold
    if (hold.code if hold else None) != (was.code if was else None):
        if hold is not None:
            rows.append(("hold_back", hold.code, hold.text, {}))
        elif was is not None:
            rows.append(("hold_back", "over", f"no longer held back ({was.code})", {"code": was.code}))
    return tuple(
        Decision(
            decision=decision,
            at=now,
            reason=reason,
            text=text,
            inputs=_inputs(after) | inputs,
            policy_revision=policy_revision,
        )
        for decision, reason, text, inputs in rows
    )


def _inputs(assessment: PoolAssessment) -> dict[str, Any]:
    state = assessment.state
    return {
        "target": state.target,
        "why": state.target_why,
        "warm": state.warm,
        "waiting": state.waiting,
        "runners": state.runners,
        "instances": state.instances,
        "cold_starts_in_flight": state.cold_starts_in_flight,
    }
