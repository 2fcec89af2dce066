"""The command `jaxserve convert`: a model written anew, in the form in which it is served."""

import shlex
from collections.abc import Sequence

from server.flags import CommandParser

DESCRIPTION = (
    "Writes a model into a directory that can be served by itself: its weights as the network uses them, packed or "
    "not, which any number of devices read without conversion; or as safetensors."
)


def convert(words: Sequence[str]) -> int:
    """Run `jaxserve convert`: write a model into a directory, print its path, and return the exit code."""
    arguments = _make_parser().parse_args(words)
    from jaxserve import convert_model
    from server.startup import StartupProgress, make_console

    console = make_console()
    with StartupProgress(console) as phases:
        phases.report("import", 0, 0)
        written = convert_model(
            arguments.model,
            arguments.directory,
            format=arguments.to,
            quantization=arguments.quantization,
            dtype=arguments.dtype,
            revision=arguments.revision,
            download_dir=arguments.download_dir,
            token=arguments.hf_token,
            progress=phases.report,
        )
    packed = f", {written.num_packed} matrices packed" if written.num_packed else ""
    console.print(f"{written.num_bytes / 1e6:.1f} MB of weights as {written.format}{packed}", soft_wrap=True)
    console.print(f"jaxserve serve {shlex.quote(str(written.path))}", soft_wrap=True)
    print(written.path)
    return 0


def _make_parser() -> CommandParser:
    parser = CommandParser("jaxserve convert", "MODEL DIRECTORY [FLAGS]", DESCRIPTION)
    parser.add_argument("model", metavar="MODEL", help="a directory, a .gguf file, or a hub id")
    parser.add_argument("directory", metavar="DIRECTORY", help="where to write it; not there yet, or empty")
    parser.add_argument(
        "--to",
        choices=("orbax", "safetensors"),
        help="the format; safetensors are never packed (default: orbax, or safetensors if DIRECTORY ends so)",
    )
    parser.add_argument(
        "--quantization",
        choices=("auto", "none", "int8", "int4", "blocks"),
        default="auto",
        help="int8 or int4 packs; auto keeps the codes of a quantised checkpoint and the blocks of a .gguf file; none"
        " unpacks (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="type of what is not packed; auto keeps the types of the checkpoint (default: %(default)s)",
    )
    parser.add_argument("--revision", metavar="TEXT", help="branch, tag or commit of a hub model")
    parser.add_argument("--hf-token", metavar="TEXT", help="token for the hub; default: HF_TOKEN, or its own login's")
    parser.add_argument("--download-dir", metavar="TEXT", help="where models are kept; default: the user's cache")
    return parser
