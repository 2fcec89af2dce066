"""LangGraph: the loop of an agent with tools, whole and streamed."""

from typing import Any

from agent_checks import TOOLS, loops
from checks import MODEL, URL, run
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

model = ChatOpenAI(base_url=f"{URL}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=200, max_retries=0)
agent: Any = create_agent(model, TOOLS)
LIMIT = {"recursion_limit": 12}


def asked(question: str) -> dict[str, Any]:
    return {"messages": [("user", question)]}


def an_agent_loop():
    return loops(lambda question: agent.invoke(asked(question), LIMIT)["messages"][-1].content)


def a_streamed_agent_loop():
    def answer(question: str) -> str:
        pieces = [piece for piece, _ in agent.stream(asked(question), LIMIT, stream_mode="messages")]
        return "".join(piece.content for piece in pieces if piece.type != "tool")

    return loops(answer)


run(an_agent_loop, a_streamed_agent_loop)
