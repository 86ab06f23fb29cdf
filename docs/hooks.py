"""Turns the notebooks of docs/ (py:percent files of jupytext) into pages with the output of their cells.

MkDocs calls `on_files`. With the environment variable EXECUTE=false the notebooks are rendered without being run.
"""

import os
import pathlib
import re
import sys
import time

import jupytext
import nbclient
import nbconvert
import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from traitlets.config import Config

LIMIT_SECONDS = 180  # for each notebook, on two cores
# Lines that TensorFlow's C++ code logs about the machine, such as: I0000 00:00:1796008315.783586 ...
LOG_LINES = re.compile(r"^(WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d:).*\n", flags=re.M)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every notebook, and a file for every picture that the notebook draws.

    The notebook itself stays among the files, so that its page can offer it for download.
    """
    for source in [file for file in files if file.src_uri.endswith(".py") and file.inclusion.is_included()]:
        notebook = jupytext.read(source.abs_src_path)
        if config.extra["execute"]:
            run(notebook, source.src_uri, folder=pathlib.Path(config.config_file_path).parent)
        text, pictures = to_markdown(notebook, pathlib.PurePath(source.src_uri).stem)
        files.append(File.generated(config, source.src_uri.removesuffix(".py") + ".md", content=text))
        for name, content in pictures.items():
            picture = pathlib.PurePosixPath(source.src_uri).parent / name
            files.append(File.generated(config, str(picture), content=content))
    return files


def run(notebook: nbformat.NotebookNode, name: str, folder: pathlib.Path) -> None:
    """Runs the cells, with the root of the repository as `folder`, and keeps their output in `notebook`.

    Raises:
        PluginError: A cell failed, or the notebook ran longer than `LIMIT_SECONDS`.
    """
    # Commands such as `python train.py` find the interpreter that builds the site, as in an activated environment.
    programs = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": programs, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.monotonic()
    client = nbclient.NotebookClient(
        notebook,
        timeout=LIMIT_SECONDS,
        kernel_name="python3",
        shutdown_kernel="immediate",
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        config=Config({"KernelManager": {"transport": "ipc"}}),  # TCP would warn that it is not encrypted
    )
    try:
        client.execute(env=environment)
    except (nbclient.exceptions.CellExecutionError, nbclient.exceptions.CellTimeoutError) as error:
        raise PluginError(f"{name}: {error}") from error
    seconds = time.monotonic() - start
    print(f"{name} ran in {seconds:.0f} s")
    if seconds > LIMIT_SECONDS:
        raise PluginError(f"{name} ran for {seconds:.0f} s; the limit is {LIMIT_SECONDS} s.")


def to_markdown(notebook: nbformat.NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    """Converts a notebook to Markdown.

    Args:
        notebook: Notebook whose cells may have output.
        name: What the names of the pictures begin with.

    Returns:
        The text, and the content of each picture by its name.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = LOG_LINES.sub("", output.text)
        cell.outputs = [output for output in cell.get("outputs", []) if output.get("text", "not a stream")]
    exporter = nbconvert.MarkdownExporter()
    text, resources = exporter.from_notebook_node(notebook, resources={"unique_key": name, "output_files_dir": ""})
    # A cell with a picture describes that picture for readers who cannot see it: # %% alt="..."
    for alt in [cell.metadata["alt"] for cell in notebook.cells if "alt" in cell.metadata]:
        text = re.sub(r"!\[(png|jpeg)\]", f"![{alt}]", text, count=1)
    return text, resources["outputs"]
