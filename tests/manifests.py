"""The manifests of deploy/kubernetes, read without kubectl: the objects of an overlay, with the
labels and the ConfigMaps that Kustomize adds. Its patches are not applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from servers import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
SERVICE_IMAGE = "service"  # as the base calls it; an overlay says which that is

Object = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """What a Deployment or a Job makes pods of."""

    owner: Object

    @property
    def name(self) -> str:
        return str(self.owner["metadata"]["name"])

    @property
    def labels(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.owner["spec"]["template"]["metadata"]["labels"]
        return found

    @property
    def spec(self) -> Object:
        found: Object = self.owner["spec"]["template"]["spec"]
        return found

    @property
    def containers(self) -> list[Object]:
        """Those that come first included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def container(self, name: str) -> Object:
        (found,) = (each for each in self.containers if each["name"] == name)
        return found

    @property
    def volumes(self) -> list[Object]:
        found: list[Object] = self.spec.get("volumes", [])
        return found

    def port(self, asked: str | int) -> int | None:
        """The number of a port that a container has, by its name or its number."""
        for container in self.containers:
            for port in container.get("ports", []):
                if asked in (port.get("name"), port["containerPort"]):
                    return int(port["containerPort"])
        return None

    def selected_by(self, selector: Object) -> bool:
        """By the labels, as Services, policies and budgets select."""
        wanted = {name: [value] for name, value in selector.get("matchLabels", {}).items()}
        for each in selector.get("matchExpressions", []):
            assert each["operator"] == "In", each
            wanted[each["key"]] = each["values"]
        return all(self.labels.get(name) in values for name, values in wanted.items())


@dataclass(frozen=True)
class Manifests:
    """Of one overlay; `config` are its ConfigMaps, and `secrets` the names and, where they are in
    the overlay, the values of what is mounted."""

    objects: list[Object]
    config: Mapping[str, Mapping[str, str]]
    secrets: Mapping[str, str]

    def of(self, *kinds: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] in kinds]

    @property
    def pods(self) -> dict[str, Pod]:
        """By the names of their owners."""
        return {pod.name: pod for pod in map(Pod, self.of("Deployment", "Job"))}

    @property
    def containers(self) -> list[tuple[Pod, Object]]:
        return [(pod, each) for pod in self.pods.values() for each in pod.containers]

    def selected(self, selector: Object) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.selected_by(selector)]

    def environment(self, container: Object) -> dict[str, str]:
        """The variables that a container gets, but for those that Kubernetes finds out."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.config[source["configMapRef"]["name"]]
        own = container.get("env", [])
        return found | {each["name"]: each["value"] for each in own if "value" in each}


def read(name: str) -> Manifests:
    """The overlay of this name, or the base."""
    folder = FOLDER / name
    own = yaml.safe_load((folder / "kustomization.yaml").read_text())
    config = {each["name"]: _values(folder, each) for each in own.get("configMapGenerator", [])}
    secrets: dict[str, str] = {}
    for each in own.get("secretGenerator", []):
        secrets |= _values(folder, each) | {Path(path).name: "" for path in each.get("files", [])}
    return Manifests(list(_objects(folder)), config, secrets)


def _values(folder: Path, generator: Object) -> dict[str, str]:
    lines = list(generator.get("literals", []))
    for path in generator.get("envs", []):
        lines += (folder / path).read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def _objects(folder: Path) -> Iterator[Object]:
    own = yaml.safe_load((folder / "kustomization.yaml").read_text())
    for resource in own["resources"]:
        path = (folder / resource).resolve()
        found = _objects(path) if path.is_dir() else yaml.safe_load_all(path.read_text())
        for each in found:
            for labels in own.get("labels", []):
                _label(each, labels)
            yield each


def _label(item: Object, labels: Object) -> None:
    """In new dictionaries: by an anchor a selector may share the old ones, and is not changed."""
    holders = [item["metadata"]]
    template = item.get("spec", {}).get("template")
    if template and labels.get("includeTemplates"):
        holders.append(template["metadata"])
    for holder in holders:
        holder["labels"] = holder.get("labels", {}) | labels["pairs"]
