"""The merged page: the gateway's own numbers, and the server's under every name tools know."""

from __future__ import annotations

import re

import httpx
from gateways import EMBEDDER, GENERATOR

SAMPLE = re.compile(r'^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_]\w*="[^"]*",?)*\})? [-+0-9.eEInfNa]+$')


def _page(http: httpx.Client) -> dict[str, float]:
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found, seen, current = {}, set(), ""
    for line in response.text.splitlines():
        if line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert current not in seen, f"{current} is described twice"
            seen.add(current)
            assert kind in ("counter", "gauge", "histogram", "summary")
        elif not line.startswith("#"):
            assert SAMPLE.match(line), line
            name, value = line.rsplit(" ", 1)
            # The format wants a metric's lines together.
            assert name.startswith(current), (name, current)
            found[name] = float(value)
    return found


def test_requests_are_counted_under_teis_and_tgis_names(http: httpx.Client) -> None:
    before = _page(http)
    http.post("/embed", json={"inputs": "a"})
    http.post("/embed", json={"inputs": ["a", "b"]})
    http.post("/embed", json={"inputs": ""})
    http.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 2}})
    http.post("/generate", json={"inputs": "a", "parameters": {"top_k": 0}})
    after = _page(http)
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    assert grown['te_request_count{method="single"}'] == 2
    assert grown['te_request_count{method="batch"}'] == 1
    assert grown['te_request_success{method="single"}'] == 1
    assert grown['te_request_failure{err="validation"}'] == 1
    assert grown["te_request_duration_count"] == 2
    assert grown['tgi_request_count{method="single"}'] == 2
    assert grown['tgi_request_failure{err="validation"}'] == 1
    assert grown["tgi_request_duration_count"] == 1
    assert grown['atoll_gateway_requests_total{path="/embed",status="200"}'] == 2
    assert grown['atoll_gateway_requests_total{path="/embed",status="400"}'] == 1


def test_the_servers_numbers_have_the_names_of_others_too(http: httpx.Client) -> None:
    http.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 2}})
    found = _page(http)
    label, own = f'{{model_name="{GENERATOR}"}}', f'{{model="{GENERATOR}"}}'
    for name in (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc",
        "prompt_tokens_total", "generation_tokens_total", "time_to_first_token_seconds_count",
        "e2e_request_latency_seconds_count",
    ):  # fmt: skip
        assert f"vllm:{name}{label}" in found, name
    assert found[f"vllm:prompt_tokens_total{label}"] == found[f"atoll_prompt_tokens_total{own}"] > 0
    assert found[f"tgi_queue_size{own}"] == 0 and f"tgi_batch_current_size{own}" in found
    assert found[f"tgi_request_queue_duration_count{own}"] > 0
    # What endpoint pickers read, once in a pod with one generator.
    (cache,) = [one for one in found if one.startswith("vllm:cache_config_info")]
    blocks = f"{found[f'atoll_kv_blocks{own}']:.0f}"
    assert re.search(rf'block_size="\d+",model_name="{GENERATOR}",num_gpu_blocks="{blocks}"', cache)
    # Triton's own are there as well.
    assert any(n.startswith("nv_inference_request_success") and EMBEDDER in n for n in found)
