"""The watch of the trial on Kubernetes, with a `kubectl` that only talks."""

import os
from pathlib import Path

import pytest
from chaos.cluster import Cluster, Watch

from servers import wait_until

# A pod that comes, is ready, restarts, and has lost its status; and one member of the Service.
KUBECTL = """#!/bin/sh
case $* in
*endpoints*) echo "10.0.0.1" ;;
*pods*)
    echo "web-1   <none>      <none>  <none>"
    echo "web-1   app,nginx   0,0     false,true"
    echo "web-1   app,nginx   0,0     true,true"
    echo "web-1   <none>      <none>  <none>"
    echo "web-1   app,nginx   2,0     true,true"
    ;;
esac
exec sleep 60
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return program


@pytest.mark.usefixtures("kubectl")
def test_a_pod_without_a_status_ends_no_watch() -> None:
    with Watch(Cluster("nowhere")) as watch:
        wait_until(lambda: watch.restarts.get("web-1/app") == 2)
        watch.assert_it_follows()
        assert watch.restarts == {"web-1/app": 2, "web-1/nginx": 0}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_nobody_reads_any_more_is_told(kubectl: Path) -> None:
    kubectl.write_text(KUBECTL.replace("2,0 ", "2 "))  # what it cannot be
    with Watch(Cluster("nowhere")) as watch, pytest.raises(AssertionError, match="nobody reads"):
        wait_until(watch.assert_it_follows)
