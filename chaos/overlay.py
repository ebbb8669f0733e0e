"""Overlays of a trial. Of the base as it is, but for images made here, servers outside the cluster,
uploads in a folder that can be read from here, and requests small enough for one node. And of the
one for trying out as it is shipped, but for what this cluster does not have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests import FOLDER, SERVICE_IMAGE, Pod, read
from nginx import IMAGE as NGINX_IMAGE

NAMESPACE = "service-trial"
TRY_OUT_NAMESPACE = "service-trial-try-out"
TRY_OUT_VOLUME = "service-trial-try-out"
IMAGE = "service-trial"
UPLOADS = "/srv/media"
SMALL_CPU = "20m"
BY_CPU = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
}

OPEN_TO_THIS_MACHINE = {
    "patch": json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"type": "NodePort"},
        }
    )
}

Patch = Mapping[str, Any]


@dataclass(frozen=True)
class Overlay:
    """`folder` is a copy of deploy/kubernetes; `old` a server without policy/v1."""

    folder: Path
    uploads: Path
    settings: Mapping[str, str]
    secrets: Mapping[str, str]
    nginx: Mapping[str, str]
    ports: Sequence[int]
    """Of the servers outside, which the network policy lets pods reach"""
    old: bool

    @property
    def path(self) -> Path:
        return self.folder / "trial"

    @property
    def try_out(self) -> Path:
        return self.folder / "try-out"

    def copy_base(self) -> None:
        shutil.copytree(FOLDER, self.folder)
        self.path.mkdir()
        namespace = {"apiVersion": "v1", "kind": "Namespace"}
        named = {"name": NAMESPACE, "labels": {"phase": "first"}}
        text = json.dumps({**namespace, "metadata": named})
        (self.path / "namespace.yaml").write_text(text)

    def write(self, version: str, changed: Mapping[str, str]) -> None:
        """For a version, that is a tag of the image, with settings changed."""
        nginx_name, _, nginx_tag = NGINX_IMAGE.rpartition(":")
        content = {
            "namespace": NAMESPACE,
            "resources": ["../base", "namespace.yaml"],
            "images": [
                {"name": SERVICE_IMAGE, "newName": IMAGE, "newTag": version},
                {"name": "nginx", "newName": nginx_name, "newTag": nginx_tag},
            ],
            "generatorOptions": {"labels": {"phase": "first"}},
            "configMapGenerator": [
                {"name": "settings", "literals": _literals({**self.settings, **changed})},
                {"name": "nginx", "literals": _literals(self.nginx)},
            ],
            "secretGenerator": [{"name": "secrets", "literals": _literals(self.secrets)}],
            "patches": self._patches(),
        }
        _write(self.path, content)

    def write_try_out(self, version: str, uploads: Path) -> None:
        """Of the development overlay. A claim of it finds a volume here, which keeps `uploads`."""
        self.try_out.mkdir()
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": TRY_OUT_VOLUME, "labels": {"phase": "first"}},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": str(uploads)},
            },
        }
        (self.try_out / "volume.yaml").write_text(json.dumps(volume))
        pods = read("development").pods.values()
        content = {
            "namespace": TRY_OUT_NAMESPACE,
            "resources": ["../development", "volume.yaml"],
            "images": [{"name": SERVICE_IMAGE, "newName": IMAGE, "newTag": version}],
            "patches": [*map(_never_pulled, pods), OPEN_TO_THIS_MACHINE, *self._for_the_server()],
        }
        _write(self.try_out, content)

    def _patches(self) -> list[Patch]:
        pods = read("base").pods.values()
        patches = [*map(_never_pulled, pods), *map(_small, pods), OPEN_TO_THIS_MACHINE]
        patches += [self._with_uploads(pod) for pod in pods if pod.owner["kind"] == "Deployment"]
        ports = [{"port": port} for port in self.ports]
        to_servers = {"op": "add", "path": "/spec/egress/-", "value": {"ports": ports}}
        patches.append(_patch([to_servers], kind="NetworkPolicy", name="out"))
        for name in ("web", "worker"):  # the trial says itself how many there are
            gone = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
            patches.append(
                {"patch": json.dumps({**gone, "metadata": {"name": name}, "$patch": "delete"})}
            )
        return [*patches, *self._for_the_server()]

    def _with_uploads(self, pod: Pod) -> Patch:
        mount = {"name": "media", "mountPath": UPLOADS}
        return _merged(
            pod,
            (each for each in pod.spec["containers"] if each["image"] == SERVICE_IMAGE),
            {"volumeMounts": [mount]},
            volumes=[{"name": "media", "hostPath": {"path": str(self.uploads)}}],
        )

    def _for_the_server(self) -> list[Patch]:
        """Older versions of what it does not know."""
        if not self.old:
            return []
        budget = [
            _replace("/apiVersion", "policy/v1beta1"),
            {"op": "remove", "path": "/spec/unhealthyPodEvictionPolicy"},
        ]
        scaler = [
            _replace("/apiVersion", "autoscaling/v2beta2"),
            _replace("/spec/metrics", [BY_CPU]),
        ]
        return [
            _patch(budget, kind="PodDisruptionBudget"),
            _patch(scaler, kind="HorizontalPodAutoscaler"),
            _patch([{"op": "remove", "path": "/spec/podFailurePolicy"}], kind="Job"),
        ]


def _never_pulled(pod: Pod) -> Patch:
    return _merged(pod, pod.containers, {"imagePullPolicy": "Never"})


def _small(pod: Pod) -> Patch:
    return _merged(pod, pod.containers, {"resources": {"requests": {"cpu": SMALL_CPU}}})


def _merged(pod: Pod, containers: Iterable[Mapping[str, Any]], more: Patch, **spec: Any) -> Patch:
    """Into these containers of a pod, by name: the order in which they are listed may change."""
    names = {each["name"] for each in containers}
    for group in ("initContainers", "containers"):
        own = [each["name"] for each in pod.spec.get(group, []) if each["name"] in names]
        if own:
            spec[group] = [{"name": name, **more} for name in own]
    content = {
        "apiVersion": pod.owner["apiVersion"],
        "kind": pod.owner["kind"],
        "metadata": {"name": pod.name},
        "spec": {"template": {"spec": spec}},
    }
    return {"patch": json.dumps(content)}


def _replace(path: str, value: object) -> Patch:
    return {"op": "replace", "path": path, "value": value}


def _patch(operations: Sequence[Patch], **target: str) -> Patch:
    return {"target": target, "patch": json.dumps(operations)}


def _literals(values: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def _write(folder: Path, content: Mapping[str, object]) -> None:
    kind = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in {**kind, **content}.items()]
    (folder / "kustomization.yaml").write_text("".join(lines))
