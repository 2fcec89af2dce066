"""Models, tokens, health and the other small routes."""

import pytest

from jaxserve.errors import BadConfig
from server.app import get_state
from server.config import ServerConfig
from server.messages.errors import is_messages_path
from server.openapi.document import list_routes
from tests.fake_llm import BOS, FakeLLM
from tests.server.api import CHAT, Api

TOOL = {"type": "function", "function": {"name": "f"}}
CARD = [
    "id",
    "object",
    "created",
    "owned_by",
    "root",
    "parent",
    "max_model_len",
    "default_sampling_params",
    "permission",
]


class TestModels:
    async def test_one_card_for_each_name_in_order(self, make_api):
        body = (await make_api(served_model_name=("one", "org/two")).get("/v1/models")).json
        assert body["object"] == "list"
        assert [card["id"] for card in body["data"]] == ["one", "org/two"]

    async def test_what_a_card_says(self, api):
        card = (await api.get("/v1/models")).json["data"][0]
        assert list(card) == CARD
        assert (card["id"], card["root"], card["parent"], card["max_model_len"]) == (
            "fake/model",
            "fake/model",
            None,
            64,
        )
        assert card["permission"][0]["id"].startswith("modelperm-")
        assert card["permission"][0]["allow_logprobs"] is True

    @pytest.mark.parametrize("path", ["org/two", "org%2Ftwo", "/abs/olute", "%2Fabs%2Folute", "%2Fabs/olute"])
    async def test_one_card_by_its_name_slashes_and_all(self, make_api, path):
        api = make_api(served_model_name=("one", "org/two", "/abs/olute"))
        answer = await api.get(f"/v1/models/{path}")
        assert (answer.status, answer.json["id"]) == (200, path.replace("%2F", "/"))

    @pytest.mark.parametrize("name", ["none", "no/such", "no%2Fsuch", "fake%252Fmodel", "a%0Ab", "fake/model/"])
    async def test_an_unknown_name_is_404(self, api, name):
        answer = await api.get(f"/v1/models/{name}")
        assert (answer.status, answer.error["type"], answer.error["param"]) == (404, "NotFoundError", "model")


class TestTokenize:
    async def test_a_prompt(self, api):
        answer = await api.post("/tokenize", {"prompt": "hi", "return_token_strs": True})
        ids = [BOS, ord("h"), ord("i")]
        assert answer.json == {"count": 3, "max_model_len": 64, "tokens": ids, "token_strs": ["<1>", "h", "i"]}

    async def test_without_special_tokens_and_pieces(self, api):
        answer = await api.post("/tokenize", {"prompt": "hi", "add_special_tokens": False})
        assert (answer.json["count"], answer.json["token_strs"]) == (2, None)

    async def test_an_empty_prompt_is_no_error(self, api):
        assert (await api.post("/tokenize", {"prompt": ""})).json["tokens"] == [BOS]

    async def test_messages_come_to_what_chat_would_feed(self, api):
        tokens = (await api.post("/tokenize", {**CHAT, "tools": []})).json["tokens"]
        assert tokens == (await api.chat(return_token_ids=True)).json["prompt_token_ids"]

    async def test_the_template_is_told_what_chat_would_tell_it(self, api):
        last = {"messages": [{"role": "assistant", "content": "so"}], "chat_template_kwargs": {"a": 1}}
        asked = {**last, "add_generation_prompt": False, "continue_final_message": True}
        asked |= {"documents": [{"a": "b"}], "tools": [TOOL], "tool_choice": "none", "reasoning_effort": "low"}
        await api.post("/tokenize", asked)
        await api.chat(**asked)
        counted, rendered = api.llm.rendered
        assert counted == {**rendered, "counting": True}
        assert (counted["add_generation_prompt"], counted["continue_final_message"]) == (False, True)
        assert counted["template_kwargs"] == {"a": 1, "reasoning_effort": "low", "enable_thinking": True}

    async def test_longer_than_the_model_can_read_but_not_without_end(self, api):
        assert (await api.post("/tokenize", {"prompt": "x" * 1000})).status == 200
        assert (await api.post("/tokenize", {"prompt": "x" * 1025})).status == 400

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"prompt": 3},
            {"prompt": "x", **CHAT},
            {"messages": []},
            {**CHAT, "chat_template": "x"},
            {**CHAT, "continue_final_message": True},
            {**CHAT, "mm_processor_kwargs": {"a": 1}},
        ],
        ids=str,
    )
    async def test_what_is_refused(self, api, body):
        assert (await api.post("/tokenize", body)).status == 400

    async def test_the_model_is_checked(self, api):
        assert (await api.post("/tokenize", {"prompt": "x", "model": "none"})).status == 404


class TestDetokenize:
    async def test_ids_become_text_special_ones_too(self, api):
        assert (await api.post("/detokenize", {"tokens": [BOS, 104, 105]})).json == {"prompt": "<1>hi"}

    async def test_the_model_is_checked(self, api):
        assert (await api.post("/detokenize", {"tokens": [1], "model": "none"})).status == 404

    @pytest.mark.parametrize("tokens", [[-1], ["x"], None, [1000], [1.5], 3])
    async def test_what_is_refused(self, api, tokens):
        assert (await api.post("/detokenize", {"tokens": tokens})).status == 400


class TestHealth:
    @pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")])
    async def test_healthy_is_200_and_empty(self, api, method, path):
        answer = await api.call(method, path)
        assert (answer.status, answer.text) == (200, "")

    async def test_draining_is_503_but_alive(self, api):
        get_state(api.app).slots.is_draining = True
        assert [(await api.get(path)).status for path in ("/health", "/ping", "/live")] == [503, 503, 200]
        refused = await api.chat()
        assert (refused.status, refused.error["type"]) == (503, "Service Unavailable")
        assert int(refused.headers["Retry-After"]) > 0


async def test_the_version(api):
    import jaxserve

    assert (await api.get("/version")).json == {"version": jaxserve.__version__}


@pytest.mark.parametrize(("tracked", "load"), [(True, 1), (False, 0)])
async def test_the_load_is_counted_on_demand(make_api, tracked, load):
    llm = FakeLLM()
    llm.hold_at = 0
    api = make_api(llm=llm, enable_server_load_tracking=tracked)
    async with api.client.request(
        "/v1/completions", method="POST", headers={"Content-Type": "application/json"}
    ) as busy:
        await busy.send(b'{"prompt": "x"}')
        await busy.send_complete()
        await llm.wait_until(lambda llm: llm.calls)
        assert (await api.get("/load")).json == {"server_load": load}
        llm.release.set()


SERVED = list_routes(Api(FakeLLM()).app)  # without those that have to be asked for
GETS = sorted(
    path.replace("assets/{name}", "assets/main.js").replace("{name}", "fake/model")
    for method, path in SERVED
    if method == "GET" and "{response_id}" not in path  # test_responses_store.py reads one that is there
)
POSTS = sorted(path for method, path in SERVED if method == "POST" and ("GET", path) not in SERVED)


@pytest.mark.parametrize("path", GETS)
async def test_head_has_the_status_and_headers_of_get(api, path):
    got, head = await api.get(path), await api.call("HEAD", path)
    assert (got.status, head.status) == (200, 200)
    assert head.headers["Content-Type"] == got.headers["Content-Type"]
    if path != "/metrics":  # whose numbers have moved on
        assert head.headers["Content-Length"] == got.headers["Content-Length"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
async def test_another_method_is_405_and_told_which_would_do(api, method, path):
    answer = await api.call(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, "OPTIONS, POST")
    message = "This path does not take this method."
    if is_messages_path(path) and method != "HEAD":
        assert answer.json == {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    elif method != "HEAD":
        assert answer.error == {"message": message, "type": "Method Not Allowed", "param": None, "code": 405}


@pytest.mark.parametrize("path", GETS)
async def test_what_is_only_read_cannot_be_written(api, path):
    answer = await api.call("DELETE", path)
    assert (answer.status, answer.error["type"]) == (405, "Method Not Allowed")
    assert "GET" in answer.headers["Allow"] and "HEAD" in answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/realtime", "/v1/models/", "/v1"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_what_is_not_offered_is_404(api, method, path):
    answer = await api.call(method, path)
    assert (answer.status, answer.error["type"], answer.error["param"]) == (404, "NotFoundError", None)


async def test_a_path_prefix_of_a_proxy_may_be_there_or_not(make_api):
    api = make_api(root_path="/llm")
    assert [(await api.get(path)).status for path in ("/llm/version", "/version", "/llmversion")] == [200, 200, 404]


async def test_doubled_and_trailing_slashes_lead_nowhere(api):
    assert [(await api.get(path)).status for path in ("/version/", "/v1//models")] == [404] * 2


ASK = {"Origin": "http://page", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}


class TestCors:
    async def test_no_other_origin_by_default(self, api):
        answer = await api.call("OPTIONS", "/v1/chat/completions", headers=ASK)
        assert (answer.status, "--allowed-origins" in answer.text) == (400, True)
        seen = await api.get("/version", headers={"Origin": "http://page"})
        for headers in (answer.headers, seen.headers):
            assert "Access-Control-Allow-Origin" not in headers

    async def test_any_origin_when_asked_for(self, make_api):
        api = make_api(allowed_origins=("*",))
        answer = await api.call("OPTIONS", "/v1/chat/completions", headers=ASK)
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Allow-Headers"] == "x-a"
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert (await api.get("/version", headers={"Origin": "http://page"})).headers[
            "Access-Control-Allow-Origin"
        ] == "*"
        assert "Access-Control-Allow-Origin" not in (await api.get("/version")).headers

    @pytest.mark.parametrize("origins", [("*",), ("http://page", "*")])
    def test_credentials_are_not_for_any_origin(self, origins):
        with pytest.raises(BadConfig, match="allow_credentials with allowed_origins"):
            ServerConfig(allowed_origins=origins, allow_credentials=True)
        assert ServerConfig(allowed_origins=("http://page",), allow_credentials=True).allow_credentials

    async def test_only_the_listed_ones_when_listed(self, make_api):
        api = make_api(allowed_origins=("http://page",), allow_credentials=True)
        answer = await api.get("/version", headers={"Origin": "http://page"})
        assert answer.headers["Access-Control-Allow-Origin"] == "http://page"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        other = await api.get("/version", headers={"Origin": "http://other"})
        assert "Access-Control-Allow-Origin" not in other.headers
        assert (await api.call("OPTIONS", "/version", headers={**ASK, "Origin": "http://other"})).status == 400

    async def test_a_page_may_ask_about_any_path_without_a_key(self, make_api):
        restricted = {"allowed_methods": ("GET", "POST"), "allowed_headers": ("authorization",)}
        api = make_api(api_key=("k",), allowed_origins=("*",), **restricted)
        for path in ("/v1/models/a%2Fb", "/tokenize", "/no/such/path"):
            answer = await api.call("OPTIONS", path, headers=ASK)
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
            assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST"
            assert answer.headers["Access-Control-Allow-Headers"] == "authorization"

    async def test_options_that_is_no_preflight_tells_the_methods(self, make_api):
        answer = await make_api(api_key=("k",)).call("OPTIONS", "/ping")
        assert (answer.status, answer.text) == (200, "")
        assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}

    async def test_errors_can_be_read_by_pages_too(self, make_api):
        api = make_api(api_key=("k",), allowed_origins=("*",))
        answer = await api.get("/version", headers={"Origin": "http://page"})
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (401, "*")
