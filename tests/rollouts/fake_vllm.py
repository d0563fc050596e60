"""A server that speaks the part of vLLM's protocol that rollouts use, over the tiny model: adapters come from their files on the disk.

Statuses and texts as vLLM's `entrypoints/openai` has them: 200 with a sentence for loading, 400 for a name that is taken, 404 for an
unknown model or for a route that is switched off.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from pipeline.adapters import POLICY
from pipeline.generation import Sample, Sampling, sample


class FakeVllm:
    def __init__(self, make_base, *, max_model_len=1024):
        self.make_base, self.max_model_len = make_base, max_model_len
        self.adapters: dict[str, str] = {}
        self.loads: list[str] = []
        self.requests: list[tuple[str, dict]] = []
        # path → what happens instead, one after the other: (status, text), a number of seconds to sleep, a function of the reply,
        # or "breaks off": more is announced than is sent.
        self.faults: dict[str, list] = {}
        self.lora_routes = True
        # As without --logprobs-mode processed_logprobs, vLLM's default: at temperature 1, whatever is drawn at. The door's questions see it.
        self.raw_logprobs = False
        # The cut that the model's generation_config.json names: vLLM's default where a request gives none.
        self.own_top_p = 1.0
        # Ends that the model's generation_config.json names: vLLM stops there too, unless a request says otherwise.
        self.own_ends: set[int] = set()
        self._bases: dict[str, object] = {"base": make_base(POLICY)}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def restart(self) -> None:
        """As a server that was stopped and started again: the base alone."""
        with self._lock:
            self.adapters.clear()
            self._bases = {"base": self._bases["base"]}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict):
        """(status, what is sent) as the real one would."""
        with self._lock:
            self.requests.append((path, body))
            fault = self.faults.get(path, []).pop(0) if self.faults.get(path) else None
        if isinstance(fault, tuple):
            return fault
        if isinstance(fault, (int, float)):
            time.sleep(fault)
        status, reply = self._plain(path, body)
        return (status, fault(reply) if callable(fault) else reply, 9 if fault == "breaks off" else 0)

    def _plain(self, path: str, body: dict):
        if path == "/v1/models":
            names = ["base", *self.adapters]
            return 200, {"object": "list", "data": [{"id": n, "max_model_len": self.max_model_len} for n in names]}
        if path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            return self._adapter(path, body) if self.lora_routes else (404, {"detail": "Not Found"})
        if path == "/v1/completions":
            if body["model"] not in self._bases:
                return 404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}
            return 200, self._complete(body)
        return 404, {"detail": "Not Found"}

    def _adapter(self, path: str, body: dict):
        name = body["lora_name"]
        if path.endswith("/unload_lora_adapter"):
            if self.adapters.pop(name, None) is None or self._bases.pop(name, None) is None:
                return 404, {"error": {"message": f"The lora adapter '{name}' cannot be found.", "code": 404}}
            return 200, f"Success: LoRA adapter '{name}' removed successfully."
        if not (Path(body["lora_path"]) / "adapter_config.json").is_file():
            return 404, {"error": {"message": f"No adapter found for {body['lora_path']}", "code": 404}}
        with self._lock:
            if name in self.adapters:
                return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded.", "code": 400}}
            base = self.make_base()
            base.load(POLICY, Path(body["lora_path"]), trainable=False)
            self._bases[name], self.adapters[name] = base, body["lora_path"]
            self.loads.append(name)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _complete(self, body: dict) -> dict:
        base = self._bases[body["model"]]
        top_p = body.get("top_p", self.own_top_p)
        sampling = Sampling(body["max_tokens"], body["temperature"], top_p, max(0, body.get("top_k", 0)), body["seed"])
        prompt = body["prompt"]
        prompt = base.tokenizer(prompt, add_special_tokens=False)["input_ids"] if isinstance(prompt, str) else prompt
        eos = next(iter(body.get("stop_token_ids", ())), -1)
        with self._lock, base.acting_as(POLICY):
            (drawn,) = sample(base.causal_lm, [prompt], sampling, eos_id=eos, pad_id=3)
            best = (
                []
                if not body["logprobs"]
                else _likeliest(
                    base.causal_lm,
                    prompt,
                    *((1.0, 1.0) if self.raw_logprobs else (sampling.temperature, top_p)),
                    body["logprobs"],
                )
            )
        ends = set() if body.get("ignore_eos") else self.own_ends
        cut = next((i + 1 for i, token in enumerate(drawn.ids) if token in ends), len(drawn.ids))
        drawn = Sample(drawn.ids[:cut], drawn.logprobs[:cut], drawn.finished or cut < len(drawn.ids))
        choice = {
            "index": 0,
            "text": base.tokenizer.decode(drawn.ids),
            "finish_reason": "stop" if drawn.finished else "length",
            "token_ids": list(drawn.ids),
            "prompt_token_ids": prompt,
            "logprobs": {"token_logprobs": list(drawn.logprobs), "top_logprobs": [best]},
        }
        return {"object": "text_completion", "model": body["model"], "choices": [choice]}

    def _handler(fake):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._reply(*fake.answer(self.path, {}))

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                self._reply(*fake.answer(self.path, json.loads(self.rfile.read(length))))

            def _reply(self, status, what, missing=0):
                text = (what if isinstance(what, str) else json.dumps(what)).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(text) + missing))
                    self.end_headers()
                    self.wfile.write(text)
                except OSError:
                    # Whoever asked is gone.
                    pass

            def log_message(self, *args):
                pass

        return Handler


@torch.no_grad()
def _likeliest(model, prompt, temperature, top_p, count) -> dict[str, float]:
    """Those outside the cut as vLLM sends them: -9999 for minus infinity."""
    best = (model(torch.tensor([prompt])).logits[0, -1].float() / temperature).log_softmax(-1).topk(count)
    before = best.values.exp().cumsum(0) - best.values.exp()
    kept = best.values.masked_fill(before > top_p, -9999.0)
    return {f"token {i}": value for i, value in zip(best.indices.tolist(), kept.tolist(), strict=True)}
