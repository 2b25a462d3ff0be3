"""What control's REST API sends and takes. Declared once: the API answers with these, the client returns them.

Plain dataclasses, because both FastAPI (the API's documentation) and msgspec (the client) read them. Times are Unix seconds,
sizes bytes, digests SHA-256 in hex. Bodies that come in refuse unknown fields.
"""

from __future__ import annotations

from openmaas.core.resources.base import CauseInfo, Page
from openmaas.core.resources.datasets import DatasetInfo, DatasetPushResult, DatasetSummary
from openmaas.core.resources.deployments import DeploymentInfo, DeploymentMove, DeployRequest, EngineInfo, ReplicaInfo
from openmaas.core.resources.evaluations import EvaluationInfo
from openmaas.core.resources.gates import GateDecision, GateInfo, GateRequest, GateTarget, GateTrial, GateVerdict
from openmaas.core.resources.jobs import JobInfo, JobReport, JobRequest, JobState
from openmaas.core.resources.lineage import Lineage, LineageLink, LineageNode
from openmaas.core.resources.models import AliasChange, AliasMove, ModelSummary, VersionChange, VersionInfo
from openmaas.core.resources.server import Approval, ApprovalRequest, Finding, GcReport, ProcessInfo, ServerStatus
from openmaas.core.resources.uploads import PushResult, UploadFile, UploadInfo, UploadRequest

__all__ = [
    "AliasChange", "AliasMove", "Approval", "ApprovalRequest", "CauseInfo", "DatasetInfo", "DatasetPushResult",
    "DatasetSummary", "DeployRequest", "DeploymentInfo", "DeploymentMove", "EngineInfo", "EvaluationInfo", "Finding",
    "GateDecision", "GateInfo", "GateRequest", "GateTarget", "GateTrial", "GateVerdict", "GcReport", "JobInfo",
    "JobReport", "JobRequest", "JobState", "Lineage", "LineageLink", "LineageNode", "ModelSummary", "Page",
    "ProcessInfo", "PushResult", "ReplicaInfo", "ServerStatus", "UploadFile", "UploadInfo", "UploadRequest",
    "VersionChange", "VersionInfo",
]  # fmt: skip
