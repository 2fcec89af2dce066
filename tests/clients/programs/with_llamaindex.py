"""LlamaIndex: the loop of its FunctionAgent, which streams."""

import asyncio

from agent_checks import TOOLS, loops
from checks import MODEL, URL, run
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    model=MODEL,
    api_base=f"{URL}/v1",
    api_key="none",
    is_chat_model=True,
    is_function_calling_model=True,
    temperature=0,
    max_tokens=200,
    max_retries=0,
)


def an_agent_loop():
    async def answer(question: str) -> str:
        return str(await FunctionAgent(tools=TOOLS, llm=model).run(question, max_iterations=6))

    return loops(lambda question: asyncio.run(answer(question)))


run(an_agent_loop)
