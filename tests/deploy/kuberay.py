"""What KubeRay's v1 resources may hold, as far as deploy/kuberay uses them: the fields of its API reference (1.6), and
those of Kubernetes' pods that are at home in a Ray pod. What is not listed is taken for a slip of the pen."""

from __future__ import annotations

import re
from typing import Any

TEXT, WHOLE, TRUTH = str, int, bool
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?")
QUANTITIES = {"cpu": QUANTITY, "memory": QUANTITY}

CONTAINER = {
    "!name": TEXT,
    "!image": TEXT,
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "command": [TEXT],
    "args": [TEXT],
    "env": [{"!name": TEXT, "value": TEXT, "valueFrom": {"secretKeyRef": {"!name": TEXT, "!key": TEXT}}}],
    "ports": [{"name": TEXT, "!containerPort": WHOLE}],
    "!resources": {"requests": QUANTITIES, "limits": QUANTITIES},
    "securityContext": {"privileged": TRUTH, "runAsUser": WHOLE},
    "volumeMounts": [{"!name": TEXT, "!mountPath": TEXT}],
}
POD_TEMPLATE = {
    "!spec": {
        "!containers": [CONTAINER],
        "volumes": [{"!name": TEXT, "emptyDir": {"medium": ("Memory",), "sizeLimit": QUANTITY}}],
        "nodeSelector": {"*": TEXT},
        "tolerations": [{"key": TEXT, "operator": ("Equal", "Exists"), "value": TEXT, "effect": ("NoSchedule",)}],
        "terminationGracePeriodSeconds": WHOLE,
        "automountServiceAccountToken": TRUTH,
    }
}
GROUP = {"rayStartParams": {"*": TEXT}, "labels": {"*": TEXT}, "resources": {"*": TEXT}, "!template": POD_TEMPLATE}
CLUSTER_SPEC = {
    "rayVersion": TEXT,
    "authOptions": {"mode": ("disabled", "token"), "secretName": TEXT},
    "enableInTreeAutoscaling": TRUTH,
    "autoscalerOptions": {
        "version": ("v1", "v2"),
        "idleTimeoutSeconds": WHOLE,
        "upscalingMode": ("Default", "Aggressive", "Conservative"),
        "resources": {"requests": QUANTITIES, "limits": QUANTITIES},
    },
    "gcsFaultToleranceOptions": {"redisAddress": TEXT, "externalStorageNamespace": TEXT},
    "!headGroupSpec": {**GROUP, "serviceType": ("ClusterIP", "NodePort", "LoadBalancer"), "enableIngress": TRUTH},
    "workerGroupSpecs": [
        {
            **GROUP,
            "!groupName": TEXT,
            "replicas": WHOLE,
            "!minReplicas": WHOLE,
            "!maxReplicas": WHOLE,
            "idleTimeoutSeconds": WHOLE,
        }
    ],
}
METADATA = {"!name": TEXT, "annotations": {"*": TEXT}, "labels": {"*": TEXT}}
RESOURCES: dict[str, dict[str, Any]] = {
    "RayCluster": {"!apiVersion": ("ray.io/v1",), "!kind": TEXT, "!metadata": METADATA, "!spec": CLUSTER_SPEC},
    "RayService": {
        "!apiVersion": ("ray.io/v1",),
        "!kind": TEXT,
        "!metadata": METADATA,
        "!spec": {
            "!serveConfigV2": TEXT,
            "!rayClusterConfig": CLUSTER_SPEC,
            "upgradeStrategy": {"type": ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")},
            "rayClusterDeletionDelaySeconds": WHOLE,
            "excludeHeadPodFromServeSvc": TRUTH,
        },
    },
}


def faults(value: object, shape: object, where: str = "") -> list[str]:
    """What does not fit: unknown, missing and mistyped fields, each by its path. `!` marks what must be there. Pure."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{where}: must be a mapping"]
        allowed = {name.removeprefix("!"): inner for name, inner in shape.items()}
        found = [f"{where}.{name[1:]}: missing" for name in shape if name[0] == "!" and name[1:] not in value]
        for name, inner in value.items():
            if name in allowed or "*" in allowed:
                found += faults(inner, allowed.get(name, allowed.get("*")), f"{where}.{name}")
            else:
                found.append(f"{where}.{name}: unknown")
        return found
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where}: must be a list"]
        return [fault for at, inner in enumerate(value) for fault in faults(inner, shape[0], f"{where}[{at}]")]
    if isinstance(shape, tuple):
        return [] if value in shape else [f"{where}: {value!r} is none of {shape}"]
    if isinstance(shape, re.Pattern):
        return [] if isinstance(value, str) and shape.fullmatch(value) else [f"{where}: {value!r} is no quantity"]
    assert isinstance(shape, type)
    return [] if type(value) is shape else [f"{where}: {value!r} is no {shape.__name__}"]
