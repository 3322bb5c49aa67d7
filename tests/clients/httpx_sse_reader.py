"""httpx-sse comes back by its caller's loop, the simplest there is."""
import json, os, time
import httpx, httpx_sse

last, pause = "", 1.0
with httpx.Client(timeout=30, trust_env=False) as client:
    while True:
        try:
            headers = {"Authorization": f"Bearer {os.environ['TOKEN']}", "Last-Event-ID": last}
            with httpx_sse.connect_sse(client, "GET", os.environ["URL"], headers=headers) as source:
                source.response.raise_for_status()
                print("open", flush=True)
                for event in source.iter_sse():
                    last, pause = event.id, event.retry / 1000 if event.retry else pause
                    print("event", json.loads(event.data)["content"] if event.event == "post" else "unnamed", flush=True)
            print("end", flush=True)
            break
        except httpx.TransportError as error:
            print("error", type(error).__name__, flush=True)
            time.sleep(pause)
