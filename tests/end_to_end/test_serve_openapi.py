"""schemathesis: whatever the server's own description allows, or forbids, is answered without a failure of ours."""

import pytest

from tests.unit.serving import models
from tests.unit.serving.models import serving

schemathesis = pytest.importorskip("schemathesis")
pytest.importorskip("fastapi")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/run", "/v1/look", "/v1/models/{model}")
NAMES = {"lm": models.language_model, "tr": models.translator, "cl": models.classifier, "emb": models.embedder}
OFTEN_REFUSED = ("regex", "grammar", "response_format", "chat_template_kwargs", "max_completion_tokens", "top_logprobs")
OFTEN_REFUSED += ("min_tokens", "bad_words", "best_of", "n", "settings", "dimensions")
EXAMPLES = 30  # of each path, of what is allowed and of what is not


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    given = {}
    for name, make in NAMES.items():
        (root / name).mkdir()
        given[name] = make(root / name)
    with serving(given, max_output=16, max_prompt=200, max_inputs=4) as running:
        yield running


CASES = [(path, mode) for path in PATHS for mode in ("positive", "negative") if "{" not in path or mode == "positive"]


@pytest.mark.parametrize(("path", "mode"), CASES)
def test_no_request_makes_it_fail(server, path, mode):
    """Most of the requests are for models that there are, or nearly all would end at the name."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    mode = schemathesis.GenerationMode(mode)
    operation = next(op.ok() for op in schema.get_all_operations() if op.ok().path == path)
    found: dict[int, int] = {}
    checks = [
        schemathesis.checks.not_a_server_error,
        *schemathesis.checks.CHECKS.get_by_names(
            ["status_code_conformance", "content_type_conformance", "response_schema_conformance"]
        ),
    ]

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy(generation_mode=mode),
        name=st.sampled_from([*NAMES, None, None]),
        few=st.integers(1, 8),
        plain=st.booleans(),
    )
    def tried(case, name, few, plain):
        if name is not None and isinstance(case.body, dict):
            case.body["model"] = name
            if "max_tokens" in case.body:
                case.body["max_tokens"] = few
            for field in OFTEN_REFUSED if plain else ():
                case.body.pop(field, None)
        response = case.call()
        found[response.status_code] = found.get(response.status_code, 0) + 1
        case.validate_response(response, checks=checks)

    tried()
    assert sum(found.values()) >= EXAMPLES / 2
    assert server.engine.ready
    assert all(status < 500 for status in found)
    if mode == schemathesis.GenerationMode.NEGATIVE:
        assert any(400 <= status < 500 for status in found)
    elif "{" not in path:
        assert set(found) != {404}, "every request ended at its model's name"
