"""The clients of scripts/try_clients: what each needs, and the program under scripts/clients that tries it.

Only what a program imports is pinned. A further client is one line here and one program there.
"""

from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parent / "clients"


@dataclass(frozen=True, slots=True)
class Client:
    """A client in an environment of its own, the same for all clients with the same name.

    requirements     name==version for pip, name@version for npm; the first is the client itself
    program          a file of scripts/clients: .py runs in a virtual environment, .mjs in an npm project
    needs_reference  the program is given a directory with texts and what transformers makes of them
    """

    name: str
    requirements: tuple[str, ...]
    program: str
    needs_reference: bool = False

    @property
    def is_node(self) -> bool:
        return self.program.endswith(".mjs")

    @property
    def title(self) -> str:
        """openai 3.57.0 (Node), as the table names it."""
        package, version = self.requirements[0].rsplit("@" if self.is_node else "==", 1)
        return f"{package.split('[')[0]} {version} ({'Node' if self.is_node else 'Python'})"


CLIENTS = (
    Client("openai", ("openai==3.57.0",), "with_openai.py"),
    Client("openai-node", ("openai@7.57.0",), "with_openai.mjs"),
    Client("langchain", ("langchain-openai==1.7.4",), "with_langchain.py"),
    Client("litellm", ("litellm==1.110.2",), "with_litellm.py"),
    Client("instructor", ("instructor==1.17.0",), "with_instructor.py"),
    Client("vercel", ("@ai-sdk/openai-compatible@3.0.92", "ai@7.0.173"), "with_vercel.mjs"),
    Client("lm-eval", ("lm-eval[api]==0.4.13", "transformers==5.24.0"), "with_lm_eval.py", needs_reference=True),
)
