"""Every route, asked what its description allows and what it does not: an answer that is described, and never a 5xx."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.checks")

pytestmark = pytest.mark.slow

TOKEN = "a-token-for-tests-only"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["u2", "i3", "i4"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
keys = st.sampled_from(
    [
        *("user", "history", "features", "k", "exclude", "include_seen", "candidates", "item", "bundle", "then"),
        *("filter", "only"),
    ]
)
bodies = st.dictionaries(keys, values, max_size=4)


@pytest.fixture
def app(build: Callable[..., Any], bundle_folder: Path) -> Any:
    return build(bundle_folder, token=TOKEN, explorer=True)


ROUTES = {
    ("POST", "/v1/recommend"): {400, 404},
    ("POST", "/v1/rank"): {400, 404},
    ("POST", "/v1/similar"): {400, 404},
    ("GET", "/v1/items/{id}"): {404},
    ("POST", "/admin/swap"): {200, 400},
    ("GET", "/healthz"): {200},
    ("GET", "/readyz"): {200},
    ("GET", "/metrics"): {200},
    ("GET", "/explorer/api/about"): {200},
    ("POST", "/explorer/api/search"): {200, 400},
    ("POST", "/explorer/api/seen"): {400, 404},
    ("POST", "/explorer/api/recommend"): {400, 404},
    ("POST", "/explorer/api/filter"): {400},
    ("POST", "/explorer/api/why"): {400, 404},
    ("POST", "/explorer/api/map"): {200, 400},
    ("POST", "/explorer/api/place"): {400, 404},
}
"""Every route of the service, and what a fuzzer's questions must have met there."""

SLOW = {"/admin/swap": 40}
"""Questions to the route that reads a whole bundle for each."""

DESCRIBED = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def operations(app: Any) -> dict[tuple[str, str], Any]:
    found = (
        one.ok() for one in schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS).get_all_operations()
    )
    return {(operation.method.upper(), operation.path): operation for operation in found}


def test_every_route_is_fuzzed(app: Any) -> None:
    assert operations(app).keys() == ROUTES.keys()


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_answers_as_it_is_described(route: tuple[str, str], app: Any) -> None:
    operation = operations(app)[route]
    seen: set[int] = set()
    for mode in schemathesis.GenerationMode:
        if mode is schemathesis.GenerationMode.NEGATIVE and not len(operation.body):
            continue  # nothing to get wrong

        @settings(max_examples=SLOW.get(route[1], 80), deadline=None, suppress_health_check=QUIET)
        @given(operation.as_strategy(generation_mode=mode))
        def holds(case: Any) -> None:
            answer = case.call(headers=HEADERS)
            seen.add(answer.status_code)
            case.validate_response(answer, checks=DESCRIBED)
            if answer.status_code >= 400:
                assert answer.json()["error"]
                assert "\n" not in answer.json()["error"]

        holds()
    assert ROUTES[route] <= seen
    assert max(seen) < 500


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/rank", "/v1/similar", "/admin/swap"])
def test_no_json_whatever_is_a_fault_of_ours(path: str, app: Any, ask: Callable[..., Any]) -> None:
    @settings(max_examples=SLOW.get(path, 150), deadline=None, suppress_health_check=QUIET)
    @given(bodies)
    def holds(body: dict[str, Any]) -> None:
        answer = ask(app, path, json.dumps(body).encode(), headers=HEADERS)
        assert answer.status_code < 500, answer.text
        if answer.status_code != 200:
            assert answer.json()["error"], answer.text

    holds()


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/rank", "/v1/similar", "/admin/swap"])
def test_no_bytes_whatever_are_a_fault_of_ours(path: str, app: Any, ask: Callable[..., Any]) -> None:
    @settings(max_examples=SLOW.get(path, 120), deadline=None, suppress_health_check=QUIET)
    @given(st.binary(max_size=60), bodies, st.integers(0, 80))
    def holds(noise: bytes, body: dict[str, Any], at: int) -> None:
        text = json.dumps(body).encode()
        answer = ask(app, path, text[:at] + noise + text[at:], headers=HEADERS)
        assert answer.status_code < 500, answer.text

    holds()
