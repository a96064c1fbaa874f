"""What the gateway's page tells of generators for endpoint pickers, with vLLM's names."""

from __future__ import annotations

import re

import httpx
from fake_triton import FakeTriton
from scripted import run


def test_adapters_and_cache_of_a_generator() -> None:
    facts = {
        "task": "generate", "block_size": 16, "num_blocks": 100, "adapters": ["a", "b", "c"],
        "running_adapters": ["a", "b"], "waiting_adapters": [],
    }  # fmt: skip
    own = r'model_name="words"'

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        page = (await http.get("/metrics")).text
        cache = rf'^vllm:cache_config_info{{block_size="16",{own},num_gpu_blocks="100"}} 1.0$'
        assert re.search(cache, page, re.MULTILINE), page
        adapters = (
            rf'^vllm:lora_requests_info{{max_lora="3",{own},running_lora_adapters="a,b",'
            r'waiting_lora_adapters=""} 1\.\d+e\+09$'
        )
        assert re.search(adapters, page, re.MULTILINE), page
        assert "plain" not in page

    run(scenario, {"words": facts, "plain": {"task": "embed", "dimensions": 4}})
