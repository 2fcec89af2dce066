"""The Python SDKs of OpenAI and Anthropic as clients of responses, messages and embeddings, over a real connection."""

import anthropic
import openai
import pytest
from pydantic import BaseModel

from tests.fake_llm import FakeLLM, Piece
from tests.server.live_server import serve_live
from tests.server.pooling_llm import PoolingLLM
from tests.server.test_messages_reply import TOOL
from tests.server.test_messages_reply import calling as messages_calling
from tests.server.test_responses_tools import FUNCTION, calling

ASKED = [{"role": "user", "content": "Hi"}]


class Answer(BaseModel):
    a: int


@pytest.fixture
async def live_server():
    llm = FakeLLM(tool_parser="hermes", reasoning_parser="qwen3", max_model_len=5000)
    async with serve_live(llm, api_key=("k",)) as live_server:
        yield live_server


@pytest.fixture
async def openai_client(live_server):
    async with openai.AsyncOpenAI(base_url=f"{live_server.url}/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic_client(live_server):
    async with anthropic.AsyncAnthropic(base_url=live_server.url, api_key="k", max_retries=0) as client:
        yield client


class TestOpenAI:
    async def test_create_retrieve_and_go_on(self, openai_client):
        first = await openai_client.responses.create(model="fake/model", input="Hi", instructions="Be brief.")
        assert (first.output_text, first.status) == ("Hello world", "completed")
        assert (await openai_client.responses.retrieve(first.id)).output_text == "Hello world"
        second = await openai_client.responses.create(model="fake/model", input="Go", previous_response_id=first.id)
        assert second.usage.input_tokens > first.usage.input_tokens
        await openai_client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError, match="There is no response"):
            await openai_client.responses.retrieve(first.id)

    async def test_stream(self, openai_client, live_server):
        live_server.llm.pieces = ([Piece(reasoning="Hm"), Piece("Hel"), Piece("lo")],)
        async with openai_client.responses.stream(model="fake/model", input="Hi") as stream:
            text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
            response = await stream.get_final_response()
        assert (text, response.output_text) == ("Hello", "Hello")
        assert [item.type for item in response.output] == ["reasoning", "message"]

    async def test_parse(self, openai_client, live_server):
        live_server.llm.pieces = (['{"a": 1}'],)
        response = await openai_client.responses.parse(model="fake/model", input="Hi", text_format=Answer)
        assert response.output_parsed == Answer(a=1)
        assert live_server.llm.calls[-1].params.structured_outputs.json is not None

    async def test_tools(self, openai_client, live_server):
        live_server.llm.pieces = (calling("f", '{"a": 1}'),)
        async with openai_client.responses.stream(model="fake/model", input="Hi", tools=[FUNCTION]) as stream:
            response = await stream.get_final_response()
        (item,) = response.output
        assert (item.type, item.name, item.arguments) == ("function_call", "f", '{"a": 1}')

    async def test_background(self, openai_client, live_server):
        live_server.llm.hold_at = 1
        response = await openai_client.responses.create(model="fake/model", input="Hi", background=True)
        assert response.status == "queued"
        assert (await openai_client.responses.cancel(response.id)).status == "cancelled"

    async def test_embeddings(self):
        async with (
            serve_live(PoolingLLM(), api_key=("k",)) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client,
        ):
            default = await client.embeddings.create(model="fake/model", input=["a", "bc"])  # asks for base64
            floats = await client.embeddings.create(model="fake/model", input=["a", "bc"], encoding_format="float")
        for one, other in zip(default.data, floats.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding)
        assert (len(default.data[0].embedding), default.usage.prompt_tokens) == (4, 5)

    async def test_errors(self, openai_client):
        with pytest.raises(openai.BadRequestError, match="temperature"):
            await openai_client.responses.create(model="fake/model", input="Hi", temperature=3)


class TestAnthropic:
    async def test_create(self, anthropic_client):
        message = await anthropic_client.messages.create(model="fake/model", max_tokens=99, messages=ASKED)
        assert (message.content[0].text, message.stop_reason) == ("Hello world", "end_turn")

    async def test_stream(self, anthropic_client, live_server):
        live_server.llm.pieces = ([Piece(reasoning="Hm"), Piece("Hel"), Piece("lo")],)
        async with anthropic_client.messages.stream(model="fake/model", max_tokens=99, messages=ASKED) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            message = await stream.get_final_message()
        assert (text, [block.type for block in message.content]) == ("Hello", ["thinking", "text"])

    async def test_tools(self, anthropic_client, live_server):
        live_server.llm.pieces = (messages_calling('{"a"', ": 1}"),)
        fields = {"model": "fake/model", "max_tokens": 99, "messages": ASKED, "tools": [TOOL]}
        async with anthropic_client.messages.stream(**fields) as stream:
            message = await stream.get_final_message()
        (use,) = message.content
        assert (use.name, use.input, message.stop_reason) == ("f", {"a": 1}, "tool_use")
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "2"}
        asked = [*ASKED, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
        live_server.llm.pieces = (["Two."],)
        answer = await anthropic_client.messages.create(**fields | {"messages": asked})
        assert answer.content[0].text == "Two."

    async def test_count_tokens(self, anthropic_client):
        counted = await anthropic_client.messages.count_tokens(model="fake/model", messages=ASKED)
        message = await anthropic_client.messages.create(model="fake/model", max_tokens=99, messages=ASKED)
        assert counted.input_tokens == message.usage.input_tokens

    async def test_errors(self, anthropic_client, live_server):
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            await anthropic_client.messages.create(model="claude", max_tokens=9, messages=ASKED)
        wrong = anthropic_client.with_options(api_key="x")
        with pytest.raises(anthropic.AuthenticationError):
            await wrong.messages.create(model="fake/model", max_tokens=9, messages=ASKED)
        live_server.llm.fail_at = live_server.llm.hold_at = 1
        with pytest.raises(anthropic.APIError, match="server had an error"):
            async with anthropic_client.messages.stream(model="fake/model", max_tokens=99, messages=ASKED) as stream:
                async for _ in stream:
                    live_server.llm.release.set()
