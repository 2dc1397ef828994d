"""The files that start the service for good name options and routes that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from twotower.cli.main import main


@pytest.mark.parametrize("name", ["compose.yaml", "twotower.service"])
def test_every_option_in_a_file_is_one_of_serve(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (root / "deploy" / name).read_text()
    options = set(re.findall(r"--(?:host|port|[a-z-]*file)\b", text))
    assert "--token-file" in options
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    told = capsys.readouterr().out
    assert all(option in told for option in options)


def test_the_files_wait_longer_than_the_service_takes_to_stop(root: Path) -> None:
    pytest.importorskip("uvicorn")
    from twotower.serving.http.server import SECONDS_TO_STOP

    for name, pattern in (
        ("compose.yaml", r"stop_grace_period: (\d+)s"),
        ("twotower.service", r"TimeoutStopSec=(\d+)"),
    ):
        found = re.search(pattern, (root / "deploy" / name).read_text())
        assert found is not None
        assert int(found[1]) > SECONDS_TO_STOP


def test_the_container_installs_the_extra_that_serving_needs(root: Path) -> None:
    assert 'EXTRAS: "[serve]"' in (root / "deploy" / "compose.yaml").read_text()
    assert '".$EXTRAS"' in (root / "Dockerfile").read_text()
