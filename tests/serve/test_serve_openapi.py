"""The OpenAPI document: complete, and true for requests made from it at random."""

from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from local_endpoint import encoded, picture
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


OPERATIONS = [
    ("POST", "/v1/score"),
    ("POST", "/v1/score:batch"),
    ("POST", "/v1/map"),
    ("GET", "/v1/models"),
    ("GET", "/v1/calibration"),
    ("GET", "/v1/version"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models"),
    ("GET", "/v2/models/stats"),
    ("POST", "/v2/repository/index"),
    ("GET", "/v2/models/{name}"),
    ("GET", "/v2/models/{name}/config"),
    ("GET", "/v2/models/{name}/versions/{version}/config"),
    ("GET", "/v2/models/{name}/stats"),
    ("GET", "/v2/models/{name}/versions/{version}/stats"),
    ("GET", "/v2/models/{name}/ready"),
    ("GET", "/v2/models/{name}/versions/{version}"),
    ("GET", "/v2/models/{name}/versions/{version}/ready"),
    ("POST", "/v2/models/{name}/infer"),
    ("POST", "/v2/models/{name}/versions/{version}/infer"),
]


@pytest.fixture(scope="session")
def api_schema(url: str) -> Any:
    """The document as it is served."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_random_requests_find_no_server_error_and_no_undeclared_answer(
    api_schema: Any, method: str, path: str, mode: GenerationMode
) -> None:
    strategy = api_schema[path][method].as_strategy(generation_mode=mode)
    answered = 0

    @hypothesis.settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=strategy)
    def check(case: Any) -> None:
        nonlocal answered
        case.validate_response(case.call(timeout=60), checks=CHECKS)
        answered += 1

    try:
        check()
    except hypothesis.errors.Unsatisfiable:  # nothing about this operation can be wrong
        assert mode is GenerationMode.NEGATIVE
        return
    assert answered >= 1


def test_every_route_is_described_with_its_refusals(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described - {("GET", "/")} == set(OPERATIONS)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation.get("summary"), path
            assert {"200", "400", "401", "403", "408", "413", "429", "500", "503"} <= set(operation["responses"]), path
            for status, answer in operation["responses"].items():
                if status != "200":
                    assert set(answer["content"]) == {"application/problem+json"}, (path, status)
    score = document["paths"]["/v1/score"]["post"]
    assert {"404", "415", "422", "504"} <= set(score["responses"])
    assert "image/png" in score["requestBody"]["content"]


def test_answers_follow_the_described_schema(url: str, api_schema: Any) -> None:
    operation = api_schema["/v1/score"]["POST"]
    query = {"map": "png", "mask": "true", "region_threshold": "0.5"}
    headers = {"Content-Type": "image/png"}
    answer = requests.post(f"{url}/v1/score", params=query, data=encoded(picture()), headers=headers, timeout=60)
    assert answer.status_code == 200
    operation.validate_response(answer)
