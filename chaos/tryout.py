"""The overlay for trying out, as it is shipped, beside the deployment of the trial."""

from __future__ import annotations

import re
from contextlib import suppress

import httpx2 as httpx

from chaos.cluster import Cluster, Watch
from chaos.overlay import TRY_OUT_NAMESPACE, TRY_OUT_VOLUME
from chaos.rollouts import Columns
from chaos.trial import SECOND, Trial, roll_out
from pictures import halves, saved
from servers import wait_until
from stack import Person

PHOTO = saved(halves((600, 400)), "JPEG")
LETTER_SECONDS = 60.0
WELL_SECONDS = 15.0


def try_out(trial: Trial, _: Watch) -> Columns:
    """Somebody registers with the mail that is printed, and uploads a picture."""
    cluster = Cluster(TRY_OUT_NAMESPACE)
    uploads = trial.overlay.uploads.with_name("try-out")
    uploads.mkdir()
    uploads.chmod(0o777)
    trial.overlay.write_try_out(SECOND, uploads)
    try:
        roll_out(trial.overlay.try_out)
        for name in ("postgres", "redis", "web", "worker"):
            cluster.wait_for_pods(name, 1)
        (pod,) = cluster.names("web")
        _assert_well(cluster.address(pod, "internal"))
        with httpx.Client(base_url=cluster.site(), verify=False, timeout=20) as client:
            assert client.get("/library").status_code == 200
            item = _upload(cluster, client)
            assert item["status"] == "ready", item
        assert [*uploads.iterdir()], "the upload is in no shared folder"
    finally:
        remove()
    return {"an upload was": item["status"]}


def remove() -> None:
    """The volume as well, which is in no namespace."""
    for kind, name in (("namespace", TRY_OUT_NAMESPACE), ("persistentvolume", TRY_OUT_VOLUME)):
        Cluster("default").kubectl("delete", kind, name, "--ignore-not-found")


def _assert_well(address: str) -> None:
    """With nothing degraded, so that it has reached Redis too."""
    ready = httpx.get(f"http://{address}/health/ready")
    assert ready.status_code == 200, ready.text

    def health() -> dict[str, object]:
        found: dict[str, object] = httpx.get(f"http://{address}/health").json()
        return found

    with suppress(TimeoutError):
        wait_until(lambda: health()["status"] == "healthy", seconds=WELL_SECONDS, every=1)
    assert health()["status"] == "healthy", health()


def _upload(cluster: Cluster, client: httpx.Client) -> dict[str, object]:
    ada = Person(client, "ada@example.org")
    ada.register()

    def link() -> str:
        text = cluster.kubectl("logs", "deployment/worker", "--container", "worker")
        found = re.search(r"/confirm\?token=[\w.-]+", text)
        return found[0] if found else ""

    ada.confirm(wait_until(link, seconds=LETTER_SECONDS, every=1))
    ada.log_in()
    return ada.upload("sunrise.jpg", PHOTO)
