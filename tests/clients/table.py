"""The clients of scripts/try_clients: what each needs, and the program under tests/clients/programs that tries it.

Only what a program imports is pinned. A further client is one line here and one program there.
"""

from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parent / "programs"
SERVERS = ("model", "scripted", "embedder")
"""model: a real one that generates. scripted: a ScriptedLLM. embedder: EMBEDDER."""
EMBEDDER = "all-minilm-l6-v2"  # of scripts/model_gallery.py


@dataclass(frozen=True, slots=True)
class Client:
    """A client in an environment of its own, the same for all of the same name, which have the same requirements.

    requirements     name==version for pip, name@version for npm; the first is the client itself
    program          a file of tests/clients/programs: .py runs in a virtual environment, .mjs in an npm project
    server           what it talks to: one of SERVERS
    needs_reference  the program is given a directory with texts and what transformers makes of them
    """

    name: str
    requirements: tuple[str, ...]
    program: str
    server: str = "model"
    needs_reference: bool = False

    @property
    def is_node(self) -> bool:
        return self.program.endswith(".mjs")

    @property
    def title(self) -> str:
        """openai 3.57.0 (Node), as the table names it."""
        package, version = self.requirements[0].rsplit("@" if self.is_node else "==", 1)
        return f"{package.split('[')[0]} {version} ({'Node' if self.is_node else 'Python'})"


OPENAI = ("openai==3.57.0",)
OPENAI_NODE = ("openai@7.57.0",)
AGENTS = ("openai-agents==0.24.0",)
LANGCHAIN = ("langchain-openai==1.7.4", "langchain-anthropic==1.7.10")
LITELLM = ("litellm==1.110.2", "fastapi==0.163.2")  # its streams of messages import that
INSTRUCTOR = ("instructor==1.17.0",)
VERCEL = ("ai@7.0.173", "@ai-sdk/openai-compatible@3.0.92", "@ai-sdk/openai@4.0.118", "@ai-sdk/anthropic@4.0.105")
CLIENTS = (
    Client("openai", OPENAI, "with_openai.py"),
    Client("openai", OPENAI, "with_openai_shapes.py"),
    Client("openai", OPENAI, "with_openai_responses.py"),
    Client("openai-agents", AGENTS, "with_agents.py"),
    Client("openai-agents", AGENTS, "with_agents_tools.py", server="scripted"),
    Client("anthropic", ("anthropic==2.14.0",), "with_anthropic.py"),
    Client("anthropic-node", ("@anthropic-ai/sdk@1.10.0",), "with_anthropic.mjs", server="scripted"),
    Client("openai-node", OPENAI_NODE, "with_openai.mjs"),
    Client("openai-node", OPENAI_NODE, "with_openai_agents.mjs"),
    Client("openai-node", OPENAI_NODE, "with_openai_responses.mjs", server="scripted"),
    Client("openai-node", OPENAI_NODE, "with_openai_embeddings.mjs", server="embedder"),
    Client("langchain", LANGCHAIN, "with_langchain.py"),
    Client("langchain", LANGCHAIN, "with_langchain_shapes.py"),
    Client("langchain", LANGCHAIN, "with_langchain_responses.py", server="scripted"),
    Client("langchain", LANGCHAIN, "with_langchain_anthropic.py", server="scripted"),
    Client("langchain", LANGCHAIN, "with_langchain_embeddings.py", server="embedder"),
    Client("langgraph", ("langgraph==1.2.24", "langchain==1.5.2", "langchain-openai==1.7.4"), "with_langgraph.py"),
    Client(
        "llamaindex",
        ("llama-index-core==0.14.25", "llama-index-llms-openai-like==0.8.1"),
        "with_llamaindex.py",
    ),
    Client("litellm", LITELLM, "with_litellm.py"),
    Client("litellm", LITELLM, "with_litellm_responses.py", server="scripted"),
    Client("litellm", LITELLM, "with_litellm_embeddings.py", server="embedder"),
    Client("instructor", INSTRUCTOR, "with_instructor.py"),
    Client("instructor", INSTRUCTOR, "with_instructor_shapes.py"),
    Client("pydantic-ai", ("pydantic-ai-slim[openai]==2.62.0",), "with_pydantic_ai.py"),
    Client("vercel", VERCEL, "with_vercel.mjs"),
    Client("vercel", VERCEL, "with_vercel_shapes.mjs"),
    Client("vercel", VERCEL, "with_vercel_agents.mjs"),
    Client("vercel", VERCEL, "with_ai_sdk_openai.mjs", server="scripted"),
    Client("vercel", VERCEL, "with_ai_sdk_anthropic.mjs", server="scripted"),
    Client("codex", ("@openai/codex@0.169.0",), "with_codex.mjs", server="scripted"),
    Client("claude-code", ("@anthropic-ai/claude-code@2.1.328",), "with_claude_code.mjs", server="scripted"),
    Client("lm-eval", ("lm-eval[api]==0.4.13", "transformers==5.24.0"), "with_lm_eval.py", needs_reference=True),
)
