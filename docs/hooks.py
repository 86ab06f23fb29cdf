"""Turns the notebooks of docs/ (py:percent files of jupytext) into pages with the output of their cells.

MkDocs calls `on_files`. `extra` in mkdocs.yml says whether the notebooks are run, and how long each may take.
"""

import os
import pathlib
import re
import subprocess
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

# Lines that TensorFlow's C++ code logs about the machine, such as: I0000 00:00:1796008315.783586 ...
LOG_LINES = re.compile(
    r"^(WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d:|INFO: Created TensorFlow Lite).*\n", flags=re.M
)

RUN_IT_YOURSELF = """

To run this page yourself, turn [its source]({name}.py) into a notebook in the root of the repository:

    jupytext --to notebook --output {name}.ipynb docs/tutorials/{name}.py
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every notebook, and a file for every picture that the notebook draws.

    The notebook itself stays among the files, so that its page can link to it.
    """
    for source in [file for file in files if file.src_uri.endswith(".py") and file.inclusion.is_included()]:
        notebook = jupytext.read(source.abs_src_path)
        if config.extra["execute"]:
            folder = pathlib.Path(config.config_file_path).parent
            run(notebook, source.src_uri, folder, limit_seconds=config.extra["limit_seconds"])
        text, pictures = to_markdown(notebook, pathlib.PurePath(source.src_uri).stem)
        if source.src_uri.startswith("tutorials/"):
            text += RUN_IT_YOURSELF.format(name=pathlib.PurePath(source.src_uri).stem)
        files.append(File.generated(config, source.src_uri.removesuffix(".py") + ".md", content=text))
        for name, content in pictures.items():
            picture = pathlib.PurePosixPath(source.src_uri).parent / name
            files.append(File.generated(config, str(picture), content=content))
    return files


def run(notebook: nbformat.NotebookNode, name: str, folder: pathlib.Path, limit_seconds: float) -> None:
    """Runs the cells, with the root of the repository as `folder`, and keeps their output in `notebook`.

    Raises:
        PluginError: A cell failed, or the notebook ran longer than `limit_seconds`.
    """
    # Commands such as `python train.py` find the interpreter that builds the site, as in an activated environment.
    programs = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": programs, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.monotonic()
    client = nbclient.NotebookClient(
        notebook,
        timeout=limit_seconds,
        kernel_name="python3",
        shutdown_kernel="immediate",
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        config=Config({"KernelManager": {"transport": "ipc"}}),  # TCP would warn that it is not encrypted
    )
    try:
        client.execute(env=environment, stderr=subprocess.DEVNULL)  # the cells keep what they write there
    except (nbclient.exceptions.CellExecutionError, nbclient.exceptions.CellTimeoutError) as error:
        raise PluginError(f"{name}: {error}") from error
    for output in [output for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]:
        output.text = LOG_LINES.sub("", output.text).replace(f"{folder}/", "")
    seconds = time.monotonic() - start
    print(f"{name} ran in {seconds:.0f} s")
    if seconds > limit_seconds:
        raise PluginError(f"{name} ran for {seconds:.0f} s; the limit is {limit_seconds} s.")


def to_markdown(notebook: nbformat.NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    """Converts a notebook to Markdown.

    Args:
        notebook: Notebook whose cells may have output.
        name: What the names of the pictures begin with.

    Returns:
        The text, and the content of each picture by its name.
    """
    exporter = nbconvert.MarkdownExporter()
    text, resources = exporter.from_notebook_node(notebook, resources={"unique_key": name, "output_files_dir": ""})
    # A shell command can be copied without the line that tells Jupyter what it is.
    text = text.replace("```bash\n%%bash\n", "```bash\n")
    # A cell with a picture describes that picture for readers who cannot see it: # %% alt="..."
    for alt in [cell.metadata["alt"] for cell in notebook.cells if "alt" in cell.metadata]:
        text = re.sub(r"!\[(png|jpeg)\]", f"![{alt}]", text, count=1)
    return text, resources["outputs"]
