"""Settings in the environment: our prefix, TEI's and TGI's own names, and nothing of others."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

from atoll.catalogue import ENTRIES, write_repository
from atoll.cli.app import app
from atoll.cli.choose import choose
from atoll.cli.flags import unknown_variables
from atoll.config import Settings
from atoll.environment import LWS, TEI, TGI, clean, variables
from atoll.errors import ConfigError
from atoll.launcher.gateway import GatewayOptions
from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.core.settings import variables as gateway_variables

# The flags of text-embeddings-router and of text-generation-launcher, as their --help lists them.
TEI_FLAGS = """
--model-id --revision --tokenization-workers --dtype --served-model-name --pooling
--max-concurrent-requests --max-batch-tokens --max-batch-requests --max-client-batch-size
--auto-truncate --default-prompt-name --default-prompt --dense-path --hf-token --hostname --port
--uds-path --huggingface-hub-cache --payload-limit --api-key --json-output --disable-spans
--otlp-endpoint --otlp-service-name --prometheus-port --cors-allow-origin
"""
TGI_FLAGS = """
--model-id --revision --validation-workers --sharded --num-shard --quantize --speculate --dtype
--kv-cache-dtype --trust-remote-code --max-concurrent-requests --max-best-of --max-stop-sequences
--max-top-n-tokens --max-input-tokens --max-input-length --max-total-tokens --waiting-served-ratio
--max-batch-prefill-tokens --max-batch-total-tokens --max-waiting-tokens --max-batch-size
--cuda-graphs --hostname --port --prometheus-port --shard-uds-path --master-addr --master-port
--huggingface-hub-cache --weights-cache-override --disable-custom-kernels --cuda-memory-fraction
--rope-scaling --rope-factor --json-output --otlp-endpoint --otlp-service-name --cors-allow-origin
--api-key --watermark-gamma --watermark-delta --ngrok --ngrok-authtoken --ngrok-edge
--tokenizer-config-path --disable-grammar-support --env --max-client-batch-size --lora-adapters
--usage-stats --payload-limit --enable-prefill-logprobs --graceful-termination-timeout
"""
# Variables that they read and that are no flags.
OTHERS = {"USE_FLASH_ATTENTION", "PREFIX_CACHING", "GRPC_MAX_PARALLEL_STREAM_REQUESTS"}
# What a pod finds in its environment beside services called atoll, atoll-http and atoll-gateway.
KUBERNETES = {
    f"{service}_{name}": text
    for service in ("ATOLL", "ATOLL_HTTP", "ATOLL_GRPC", "ATOLL_METRICS", "ATOLL_GATEWAY",
                    "ATOLL_GATEWAY_GRPC", "METRICS", "HTTP", "GRPC")
    for name, text in {
        "SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "80", "SERVICE_PORT_HTTP": "80",
        "PORT": "tcp://10.0.0.1:80", "PORT_80_TCP": "tcp://10.0.0.1:80",
        "PORT_80_TCP_PROTO": "tcp", "PORT_80_TCP_PORT": "80", "PORT_80_TCP_ADDR": "10.0.0.1",
    }.items()
}  # fmt: skip


def group() -> Any:
    return typer.main.get_command(app)


def parsed(command: str, *arguments: str) -> dict[str, Any]:
    """What a command's flags are, without running it."""
    found = group().commands[command]
    context = found.make_context(command, list(arguments), auto_envvar_prefix=f"ATOLL_{command}")
    return dict(context.params)


def names(flags: str) -> set[str]:
    return {flag.removeprefix("--").replace("-", "_").upper() for flag in flags.split()}


def values() -> dict[str, str]:
    """For every setting a text that differs from its default."""
    found = {}
    for f in fields(Settings):
        if f.name in ("dtype", "state_dtype"):
            found[f.name] = "bfloat16"
        elif f.name in ("log_level", "log_format"):
            found[f.name] = {"log_level": "debug", "log_format": "json"}[f.name]
        elif isinstance(f.default, bool) or f.name in ("sharded", "use_flash_attention"):
            found[f.name] = str(f.default is not True).lower()
        else:
            found[f.name] = "7"
    return found


def test_the_table_holds_only_names_that_tei_and_tgi_document() -> None:
    assert names(TEI_FLAGS) | OTHERS >= TEI
    assert names(TGI_FLAGS) | OTHERS >= TGI


@pytest.mark.parametrize("setting", [f.name for f in fields(Settings)])
def test_a_setting_is_read_by_our_prefix_and_by_documented_names(setting: str) -> None:
    """BLOCK_SIZE=human-readable, which GNU coreutils read, failed every model's load."""
    text, default = values()[setting], getattr(Settings(), setting)
    prefixed = Settings.read({}, {f"ATOLL_{setting.upper()}": text})
    assert getattr(prefixed, setting) != default
    bare = getattr(Settings.read({}, {setting.upper(): text}), setting)
    assert (bare != default) == (setting.upper() in TEI | TGI)
    if setting.upper() not in TEI | TGI:
        assert Settings.read({}, {setting.upper(): "human-readable"}) == Settings()
    both = {f"ATOLL_{setting.upper()}": text, setting.upper(): "broken"}
    assert Settings.read({}, both) == prefixed, "ours wins, and theirs is not looked at"


def test_flags_and_the_gateway_read_the_same_names() -> None:
    documented = TEI | TGI | LWS | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING"}
    for name, command in group().commands.items():
        for flag in command.params:
            twins = [flag.envvar] if isinstance(flag.envvar, str) else flag.envvar or []
            for twin in twins:
                assert twin.startswith("ATOLL_") or twin in documented, (name, twin)
    for one in fields(GatewaySettings):
        for twin in gateway_variables(one.name):
            assert twin.startswith("ATOLL_") or twin in documented, twin
    for name in ("api_key", "cors_allow_origin"):
        assert set(variables(name)) < set(gateway_variables(name))


def test_other_programs_variables_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"BLOCK_SIZE": "human-readable", "DEVICE": "/dev/sda", "TASK": "build", "HOST": "x",
              "HTTP_PORT": "tcp://10.0.0.1:80", "METRICS_PORT": "tcp://10.0.0.1:80",
              "SERVER": "nginx", "VERBOSE": "yes please", "PROMPTS": "{", "HOSTNAME": "7f3a",
              "NUM_THREADS": "many", "TRITONSERVER": "/nowhere",
              "MEMORY_FRACTION": "1/2"}  # fmt: skip
    usual = parsed("serve")
    for name, text in others.items():
        monkeypatch.setenv(name, text)
    assert parsed("serve") == usual
    assert Settings.read({}) == Settings()
    assert GatewaySettings.read() == GatewaySettings()


@pytest.mark.parametrize("setting", ["block_size", "memory_fraction", "prefix_caching", "dtype"])
@pytest.mark.parametrize("text", ["human-readable", "-1"])
def test_a_wrong_value_is_an_error_that_names_the_variable(setting: str, text: str) -> None:
    variable = f"ATOLL_{setting.upper()}"
    with pytest.raises(ConfigError, match=rf"^{variable} is '?{text}.*; "):
        Settings.read({}, {variable: text})
    with pytest.raises(ConfigError, match=rf"^{setting} is "):
        Settings.read({setting: text}, {variable: "1"})


@pytest.mark.parametrize("text", ["nan", "inf"])
def test_a_share_is_a_finite_number(text: str) -> None:
    """Every comparison with nan is false: memory_fraction=nan was taken."""
    with pytest.raises(ConfigError, match="ATOLL_MEMORY_FRACTION is"):
        Settings.read({}, {"ATOLL_MEMORY_FRACTION": text})


def test_a_wrong_value_of_the_gateway_names_the_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It was a traceback of int()."""
    with pytest.raises(SystemExit):
        GatewaySettings.read((), {"ATOLL_GATEWAY_PORT": "http"})
    assert "ATOLL_GATEWAY_PORT is 'http'; expected int" in capsys.readouterr().err


def test_kubernetes_services_of_our_name_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """METRICS_PORT=tcp://10.0.0.1:80, which a service called "metrics" makes, failed the start."""
    usual = parsed("serve"), parsed("doctor")
    for name, text in KUBERNETES.items():
        monkeypatch.setenv(name, text)
    assert Settings.read({}) == Settings()
    assert GatewaySettings.read() == GatewaySettings()
    assert unknown_variables(group(), os.environ) == []
    clean(os.environ)
    assert (parsed("serve"), parsed("doctor")) == usual
    # What is really meant still holds, beside the service's address too.
    assert GatewaySettings.read((), {**KUBERNETES, "ATOLL_GATEWAY_PORT": "81"}).port == 81
    monkeypatch.setenv("ATOLL_PORT", "82")
    assert parsed("serve")["port"] == 82


def test_the_command_drops_service_links_before_it_reads_its_flags() -> None:
    environment = {**os.environ, **KUBERNETES, "COLUMNS": "200"}
    done = subprocess.run(
        [Path(sys.executable).parent / "atoll", "serve", "--dtype", "int3"],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("error: dtype is 'int3'"), done.stderr


def test_a_misspelt_variable_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ATOLL_MAX_BATCH_TOKEN", "5")
    with caplog.at_level(logging.WARNING):
        group().main(["list", "--json"], standalone_mode=False)
    assert "ATOLL_MAX_BATCH_TOKEN is set, and nothing reads" in caplog.text
    known = {"ATOLL_MAX_BATCH_TOKENS", "ATOLL_HOST", "ATOLL_SERVE_HOST", "ATOLL_CACHE",
             "ATOLL_GATEWAY_API_KEY", "ATOLL_JSON", "ATOLL_ADD_SETTING",
             "ATOLL_URL"}  # fmt: skip
    assert unknown_variables(group(), dict.fromkeys(known, "1")) == []


def test_flags_of_serve_have_a_short_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_HOST", "0.0.0.0")
    assert parsed("serve")["host"] == "0.0.0.0"


def test_a_flag_beside_another_value_in_the_environment_is_a_flag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A variable of that name in the environment made --dtype bfloat16 have no effect."""
    monkeypatch.setenv("ATOLL_DTYPE", "float32")
    monkeypatch.setenv("MAX_BATCH_TOKENS", "512")
    assert choose([], None, {"dtype": "bfloat16"}).entries[0].settings["dtype"] == "bfloat16"
    with pytest.raises(ConfigError, match="without --dtype"):
        choose([], tmp_path, {"dtype": "bfloat16"})
    write_repository([ENTRIES[0]], tmp_path)
    assert choose([], tmp_path, {"dtype": "float32", "max_batch_tokens": "512"}).names == ()


@pytest.mark.parametrize(("text", "wanted"), [("0", False), ("1,2,4,8", True), ("false", False)])
def test_tgis_sizes_of_graphs_are_a_yes_or_no(
    text: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.read({}, {"CUDA_GRAPHS": text}).cuda_graphs is wanted
    monkeypatch.setenv("CUDA_GRAPHS", text)
    clean(os.environ)
    assert parsed("serve")["cuda_graphs"] is wanted


def test_tgis_older_name_of_the_longest_prompt() -> None:
    assert Settings.read({}, {"MAX_INPUT_LENGTH": "99"}).max_input_tokens == 99


def test_the_gateways_own_variables_reach_it_through_serve() -> None:
    """An empty --api-key hid ATOLL_GATEWAY_API_KEY: the gateway was open."""
    own = {"ATOLL_GATEWAY_API_KEY": "secret"}
    options = GatewayOptions("127.0.0.1:1", "", settings={"api_key": "", "cors_allow_origin": ""})
    assert GatewaySettings.read((), {**own, **options.environment()}).api_key == "secret"


def test_the_page_names_every_variable_that_is_read_without_the_prefix() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    (line,) = [text for text in page.splitlines() if text.startswith("Variables of TEI")]
    found = set(re.findall(r"`([A-Z_]+)`", line))
    known = TEI | TGI | LWS
    assert found == {n for f in fields(Settings) for n in variables(f.name) if n in known}
