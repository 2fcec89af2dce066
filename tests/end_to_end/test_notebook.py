"""The notebook of scripts/ runs from top to bottom, on the tiny model, inside a kernel's running event loop."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "scripts" / "quickstart.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's own machinery
def test_the_notebook_runs(tiny_model: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    opening = next(cell for cell in notebook.cells if "llm = LLM(" in cell.source)
    opening.source = opening.source.replace("llm = LLM(", f"llm = LLM({str(tiny_model)!r}, ")
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = {cell.source: "".join(out.get("text", "") for out in cell.get("outputs", ())) for cell in notebook.cells}
    [table] = [out.data["text/markdown"] for out in opening.outputs if out.output_type == "execute_result"]
    assert "| LlamaForCausalLM" in table
    choices = next(text for source, text in printed.items() if "choice.index" in source)
    assert all(f"{index}: " in choices for index in range(3))


def test_the_notebook_is_committed_with_what_it_prints() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells if "print" in cell.source)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
