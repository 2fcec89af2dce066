"""What a model writes, as elements: Markdown, formulas, code, and nothing that runs. Streamed is as whole."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.browser import Page
from tests.fake_openai import FakeOpenAI

CODE = "```python\nif a < b:\n    print('*not bold*')\n```\n"
REST = "# Title\n\n1. one\n   - inner\n2. two `code`\n\n> said\n\n| a | b |\n|:--|--:|\n| 1 | 2 |\n\n"
REST += "https://example.org. main.py"
FORMULAS = r"Let $x^2$ and \(y_1\):" + "\n\n$$\n\\frac{1}{2}\n$$\n\n\\[ \\sqrt{2} \\]\n\n"
RENDER = """const [pieces, done] = arguments;
import("./assets/markdown.js").then(({ MarkdownView }) => {
  const [growing, whole] = [document.createElement("div"), document.createElement("div")];
  const view = new MarkdownView(growing);
  for (const piece of pieces) { view.append(piece); view.draw(); }
  const streamed = growing.innerHTML;
  view.finish(pieces.join(""));
  new MarkdownView(whole).finish(pieces.join(""));
  done([streamed, growing.innerHTML, whole.innerHTML]);
})"""


def render(page: Page, *pieces: str) -> tuple[str, str, str]:
    """The HTML when all pieces have come one by one; then, when that is finished; and when it comes at once."""
    return tuple(page.execute_async_script(RENDER, pieces))


def answer(page: Page, server: FakeOpenAI, text: str) -> None:
    """One character at a time: every half-finished state may be rendered."""
    server.words = tuple(text)
    page.say("Show me")
    page.until_answered(1)


def test_markdown_becomes_elements(page: Page, server: FakeOpenAI) -> None:
    answer(page, server, CODE + REST)
    assert page.texts(".code pre") == ["if a < b:\n    print('*not bold*')"]
    assert page.texts(".text h3, .text blockquote, .text p a") == ["Title", "said", "https://example.org"]
    assert page.texts(".text ol > li > ul > li") == ["inner"]
    assert page.texts(".text li > code") == ["code"]
    assert page.texts(".text td") == ["1", "2"]
    assert page.style(".text td:last-child", "textAlign") == "right"
    assert page.complaints() == []


def test_formulas_are_typeset_in_a_line_and_displayed(page: Page, server: FakeOpenAI) -> None:
    answer(page, server, FORMULAS)
    assert len(page.find_elements("css selector", ".text p math msup, .text p math msub")) == 2
    assert len(page.find_elements("css selector", ".text .math math[display=block] :is(mfrac, msqrt)")) == 2
    assert page.complaints() == []


@pytest.mark.parametrize("text", ["It costs $5 and $10.", "`$x$`", r"\$x\$", "$ x $", "a $$ b", "Is $x$2 money?"])
def test_money_and_code_are_no_formulas(page: Page, text: str) -> None:
    assert "<math" not in render(page, text)[2]


@pytest.mark.parametrize("tex", [r"\nocommand{x}", r"\frac{1}{"])
def test_what_is_no_formula_is_shown_as_it_was_written(page: Page, server: FakeOpenAI, tex: str) -> None:
    answer(page, server, f"a ${tex}$ b")
    assert page.texts(".text") == [f"a ${tex}$ b"]


@pytest.mark.parametrize(
    "tex", [r"\href{javascript:alert(1)}{x}", r"\includegraphics{x}", r"\htmlId{send}{x}", "<b>x</b>"]
)
def test_a_formula_leads_nowhere_and_loads_nothing(page: Page, server: FakeOpenAI, tex: str) -> None:
    answer(page, server, f"a ${tex}$ b")
    assert page.find_elements("css selector", ".text :is(a, img, b, [href], [src], [id], [style])") == []
    assert page.complaints() == []


def test_code_has_colours_in_both_themes(page: Page, server: FakeOpenAI) -> None:
    answer(page, server, CODE)
    light = page.style(".token.keyword", "color")
    page.prefer("dark")
    assert light != page.style(".token.keyword", "color") != page.style("pre", "color")


def test_what_the_model_says_is_text_never_markup(page: Page, server: FakeOpenAI) -> None:
    wicked = "<img src=x onerror='document.title=1'> <script>document.title=1</script> [a](javascript:alert(1))"
    answer(page, server, wicked)
    assert page.texts(".text")[0] == wicked
    assert page.find_elements("css selector", ".text :is(img, script, a)") == []
    assert page.title == "jaxserve"


def test_links_open_elsewhere_and_images_are_only_links(page: Page, server: FakeOpenAI) -> None:
    answer(
        page, server, "[a](https://example.org/a) ![b](https://example.org/b.png) [c](data:text/html,x) [d](file:///x)"
    )
    links = page.find_elements("css selector", ".text a")
    assert [link.text for link in links] == ["a", "b"]
    assert {link.get_attribute("rel") for link in links} == {"noopener noreferrer nofollow"}
    assert {link.get_attribute("target") for link in links} == {"_blank"}
    assert not [url for url in page.requested_urls() if "example.org" in url]


@pytest.mark.parametrize("is_secure", [True, False])
def test_code_is_copied_as_it_was_written(page: Page, server: FakeOpenAI, is_secure: bool) -> None:
    page.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    answer(page, server, CODE)
    page.execute_script("window.held = navigator.clipboard")
    if not is_secure:  # as on a page of a plain http host
        page.execute_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.one(".copy-code").click()
    page.until(lambda: page.texts(".copy-code") == ["Copied"])
    read = "held.readText().then(arguments[0])"
    assert page.execute_async_script(read) == "if a < b:\n    print('*not bold*')"


BLOCKS = st.sampled_from(
    [
        *("# t\n", "a *b* $x$\n", "\n", "- i\n", "  - j\n", "1. k\n", "> q\n", "```py\n", "x = 1\n", "```\n"),
        *("| a | b |\n", "|---|---|\n", "$$\n", "---\n", "===\n", "\\[ y \\]\n", "    z\n", "[r] s\n"),
        *("[r]: http://e.org\n", "#", "*", "1.", " "),
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(BLOCKS, max_size=14), st.randoms(use_true_random=False))
def test_streamed_is_as_whole(page: Page, blocks: list[str], random) -> None:
    text, pieces = "".join(blocks), []
    while text:
        size = random.randint(1, 6)
        pieces.append(text[:size])
        text = text[size:]
    _, finished, whole = render(page, *pieces)
    assert finished == whole


@pytest.mark.parametrize("text", [CODE + REST + "\n", FORMULAS, "> a\n#hash\n", "- a\n\n  b\n- c\n\nd\n"])
def test_a_streamed_text_needs_no_mending_at_its_end(page: Page, text: str) -> None:
    streamed, _, whole = render(page, *text)
    assert streamed == whole


def test_a_block_that_is_final_is_not_touched_again(page: Page) -> None:
    script = """const done = arguments[0];
    import("./assets/markdown.js").then(({ MarkdownView }) => {
      const place = document.createElement("div"), view = new MarkdownView(place);
      let text = "", most = 0;
      for (let at = 0; at < 500; at += 1) {
        const piece = `paragraph ${at}\\n\\n`;
        text += piece;
        view.append(piece);
        view.draw();
        most = Math.max(most, view.rest.length);
      }
      const before = [...place.children];
      view.finish(text);
      done([before.length, before.slice(0, -1).every((one, at) => one === place.children[at]), most]);
    })"""
    length, are_same, most_parsed = page.execute_async_script(script)
    assert (length, are_same) == (500, True)
    assert most_parsed < 100
