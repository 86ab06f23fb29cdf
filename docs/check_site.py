"""Checks the built site: dead links, and requests of a reader's browser to other hosts.

python docs/check_site.py site
"""

import functools
import html.parser
import http.server
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse


class Page(html.parser.HTMLParser):
    """Links and anchors of an HTML page.

    Attributes:
        links: What `href` and `src` name, as written.
        anchors: What a link can name after its "#".
    """

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.links += [value for name in ("href", "src") if (value := values.get(name))]
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}


def dead_links(site: pathlib.Path) -> list[str]:
    """The links within a site whose file or anchor is missing, each with its page."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        # 404.html is served for any address, so that its links begin at the host's root.
        for link in page.links if path.name != "404.html" else ():
            address = urllib.parse.urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(address.path)).resolve() if address.path else path
            anchor = urllib.parse.unquote(address.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                dead.append(f"{path.relative_to(site.resolve())}: {link}")
    return dead


def browser_requests(browser: str, site: pathlib.Path) -> list[str]:
    """The addresses that headless Chromium asks for while it shows every page of a site, relative to the site."""
    pages = sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))
    frames = "".join(f'<iframe src="/{page}" width="1280" height="800"></iframe>' for page in pages)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":  # every page in a frame, which is 40 times as fast as a browser for each
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(frames.encode())
            else:
                super().do_GET()

        def log_message(self, *arguments) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    with server, tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "net.json"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--log-net-log={log}"]
        command += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=60000", "--dump-dom", f"{host}/"]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        server.shutdown()
        content = json.loads(log.read_text(encoding="utf-8"))
    started = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = [event["params"] for event in content["events"] if event["type"] == started and "params" in event]
    # Requests without a page as their initiator are the browser's own, such as those for its updates.
    urls = [request["url"].removeprefix(host) for request in requests if request.get("initiator") == host]
    if missing := {f"/{page}" for page in pages} - set(urls):
        raise RuntimeError(f"Chromium did not open {', '.join(sorted(missing))}.")
    return urls


def main(site: pathlib.Path) -> None:
    problems = dead_links(site)
    print(f"{len(list(site.rglob('*.html')))} pages, {len(problems)} dead links")
    if browser := shutil.which("chromium"):
        urls = browser_requests(browser, site)
        foreign = [f"Request to another host: {url}" for url in urls if not url.startswith(("/", "data:", "blob:"))]
        print(f"{len(urls)} requests of Chromium, {len(foreign)} of them to other hosts")
        problems += foreign
    else:
        print("Requests to other hosts were not checked: Chromium is not installed (apt-get install chromium).")
    sys.exit("\n".join(problems) or None)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
