"""Answers as models write them, by format, and what each comes to."""

from __future__ import annotations

from typing import Any, NamedTuple

PARAMETERS: Any = {
    "type": "object",
    "$defs": {"count": {"type": "integer"}},
    "properties": {
        "city": {"type": "string"}, "days": {"$ref": "#/$defs/count"}, "on": {"type": "boolean"},
        "list": {"type": "array"}, "either": {"anyOf": [{"type": "number"}, {"type": "string"}]},
        "kind": {"enum": ["a", None]},
    },
}  # fmt: skip
FUNCTIONS: Any = {"f": {"name": "f", "parameters": PARAMETERS}, "g": {"name": "g"}}


class Case(NamedTuple):
    """An answer, and what it comes to. calls: name and arguments as a value, or as broken text.

    state: of the prompt. ids: of the calls, if the format has them.
    """

    calls_by: str
    text: str
    content: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    reasoning: str = ""
    reasoning_by: str = "none"
    state: str = ""
    ids: tuple[str, ...] = ()


ROME, NONE = ("f", {"city": "Rome"}), ("g", {})
DS, DE = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
DC, DX, D = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
KS, KE = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
KC, KX, KA = "<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_call_argument_begin|>"
G = '<|"|>'
CALL = '{"name": "f", "arguments": {"city": "Rome"}}'
CASES = [
    # Reasoning.
    Case("none", "<think>\nHm <b>\n</think>\n\nYes. ", "Yes. ", reasoning="Hm <b>",
         reasoning_by="qwen3"),
    Case("none", "Hm </think>Yes", "Yes", reasoning="Hm", reasoning_by="qwen3", state="open"),
    Case("none", " <think> no </thin", reasoning="no </thin", reasoning_by="qwen3"),
    Case("none", "<think></think>Yes", "Yes", reasoning_by="qwen3"),
    Case("none", "Yes <think>no</think>", "Yes <think>no</think>", reasoning_by="qwen3"),
    Case("none", "Yes</think>", "Yes</think>", reasoning_by="qwen3", state="closed"),
    Case("none", "Hm\n</think>\nYes", "Yes", reasoning="Hm", reasoning_by="deepseek_r1"),
    Case("none", "Yes", "Yes", reasoning_by="deepseek_r1", state="closed"),
    Case("none", "[THINK]Hm[/THINK]Yes", "Yes", reasoning="Hm", reasoning_by="mistral"),
    Case("none", "<|channel>thought\nHm<channel|>Yes", "Yes", reasoning="Hm",
         reasoning_by="gemma4"),
    Case("none", "Here is my thought process: Hm\n\nHere is my response: Yes", "Yes",
         reasoning="Hm", reasoning_by="granite"),
    Case("granite", f"<think>Hm</think>\n<response>So <|tool_call|>[{CALL}]</response>\n", "So",
         (ROME,), "Hm", "granite3.3"),
    Case("none", "<think>Hm</think><response>Yes</response>", "Yes", reasoning="Hm",
         reasoning_by="granite3.3"),
    Case("none", "<response>Yes", "Yes", reasoning_by="granite3.3"),
    Case("hermes", f"<think>\n<tool_call>{CALL}\n</think>\n\n<tool_call>\n{CALL}\n</tool_call>",
         calls=(ROME,), reasoning=f"<tool_call>{CALL}", reasoning_by="qwen3"),
    Case("none", f"<tool_call>{CALL}</tool_call>", f"<tool_call>{CALL}</tool_call>"),
    # Llama.
    Case("llama3_json", '{"name": "f", "parameters": {"city": "Rome"}}; {"name": "g", '
         '"parameters": {}}', calls=(ROME, NONE)),
    Case("llama3_json", f"So <|python_tag|>{CALL}", "So", (ROME,)),
    Case("llama3_json", "<|python_tag|>print(1)", "<|python_tag|>print(1)"),
    Case("llama3_json", '{"name": "h"}; {"name": "f"}', '{"name": "h"}; {"name": "f"}'),
    Case("pythonic", "[f(city='Rome', list=[1, (2, {'a': None})]), g()]",
         calls=(("f", {"city": "Rome", "list": [1, [2, {"a": None}]]}), NONE)),
    Case("pythonic", "<|python_start|>[f(city=\"a\\\"b)]'\"), g( )]<|python_end|>.", ".",
         (("f", {"city": "a\"b)]'"}), NONE)),
    Case("pythonic", "[f(city=open('x'))]", "[f(city=open('x'))]"),
    Case("pythonic", "[g(), f(city=x)] no", ", f(city=x)] no", (NONE,)),
    Case("pythonic", "[1, 2]", "[1, 2]"),
    Case("pythonic", "[f(city='R", "[f(city='R"),
    Case("pythonic", "[f('Rome')] [h()]", "[f('Rome')] [h()]"),
    # Mistral.
    Case("mistral", f'[TOOL_CALLS] [{CALL[:-1]}, "id": "123456789"}}, '
         '{"name": "g", "arguments": {}}]', calls=(ROME, NONE)),
    Case("mistral", 'So[TOOL_CALLS]f{"city": "Rome"}[TOOL_CALLS]g[ARGS]{}', "So", (ROME, NONE)),
    Case("mistral", '[TOOL_CALLS]f[CALL_ID]abcDEF123[ARGS]{"city": "Rome"}', calls=(ROME,),
         ids=("abcDEF123",)),
    Case("mistral", "[TOOL_CALLS]h{} [TOOL_CALLS", "[TOOL_CALLS]h{} [TOOL_CALLS"),
    Case("mistral", '[THINK]\nHm[/THINK][TOOL_CALLS]f{"city": "Ro', calls=(("f", '{"city": "Ro'),),
         reasoning="Hm", reasoning_by="mistral"),
    # Harmony.
    Case("openai", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final"
         "<|message|>Yes", "Yes", reasoning="Hm.", reasoning_by="openai_gptoss"),
    Case("openai", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary"
         '<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.f '
         '<|constrain|>json<|message|>{"city": "Rome"}', "I look.", (ROME,), "Hm.",
         "openai_gptoss"),
    Case("openai", " to=functions.g<|channel|>commentary<|message|><|call|><|start|>assistant"
         ' to=functions.f<|channel|>commentary json<|message|>{"city": "Rome"}<|call|>',
         calls=(NONE, ROME), reasoning_by="openai_gptoss"),
    Case("openai", "<|channel|>analysis<|message|>A<|end|><|channel|>analysis<|message|>B<|end|>"
         "<|start|>assistant<|channel|>final<|message|>C<|return|>", "C", reasoning="A\nB",
         reasoning_by="openai_gptoss"),
    Case("openai", "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>final"
         "<|message|>B", "A\nB"),
    Case("none", "<|channel|>commentary to=functions.f<|message|>{}<|call|>",
         "<|channel|>commentary to=functions.f<|message|>{}<|call|>",
         reasoning_by="openai_gptoss"),
    Case("openai", "<|channel|>commentary to=functions.h <|constrain|>json<|message|>{}<|call|>",
         "<|channel|>commentary to=functions.h <|constrain|>json<|message|>{}<|call|>",
         reasoning_by="openai_gptoss"),
    Case("openai", "<|channel|>final<|message|>A<|end|><|start|>assistant<|chan", "A",
         reasoning_by="openai_gptoss"),
    Case("openai", "<|start|>word", "<|start|>word", reasoning_by="openai_gptoss"),
    Case("openai", "Yes <|x", "Yes <|x", reasoning_by="openai_gptoss"),
    Case("openai", "on<|end|>", "on", reasoning_by="openai_gptoss", state="closed"),
    Case("openai", "on<|end|><|start|>assistant<|channel|>final<|message|>A", "A", reasoning="on",
         reasoning_by="openai_gptoss", state="open"),
    # Gemma.
    Case("gemma4", f"So <|tool_call>call:f{{city:{G}Rome, }}{G},days:3,list:[1,{G}a{G},"
         "{x:true}]}<tool_call|><|tool_call>call:g{}<tool_call|>", "So",
         (("f", {"city": "Rome, }", "days": 3, "list": [1, "a", {"x": True}]}), NONE)),
    Case("gemma4", "<|tool_call>call:f{city:", "<|tool_call>call:f{city:"),
    Case("gemma4", "<|tool_call>call:f", "<|tool_call>call:f"),
    Case("gemma4", "<|tool_call>call:f{a:1:2}<tool_call|>",
         "<|tool_call>call:f{a:1:2}<tool_call|>"),
    Case("functiongemma", "<start_function_call>call:f{city:<escape>Rome<escape>}"
         "<end_function_call>", calls=(ROME,)),
    # DeepSeek.
    Case("deepseek_v3", f'So{DS}{DC}function{D}f\n```json\n{{"city": "Rome"}}\n```{DX}\n'
         f"{DC}function{D}g\n```json\n{{}}\n```{DX}{DE}", "So", (ROME, NONE)),
    Case("deepseek_v31", f'{DS}{DC}f{D}{{"city": "Rome"}}{DX}{DC}g{D}{{}}{DX}{DE}.', ".",
         (ROME, NONE)),
    Case("deepseek_v31", f"{DS}{DC}h{D}{{}}{DX}", f"{DS}{DC}h{D}{{}}{DX}"),
    Case("deepseek_v31", f'Hm</think>{DS}{DC}f{D}{{"city": "Ro', calls=(("f", '{"city": "Ro'),),
         reasoning="Hm", reasoning_by="deepseek_v3", state="open"),
    # Without markers, as the model is told if its template has no place for tools.
    Case("deepseek_v3", f'{CALL}\n{{"name": "g", "arguments": {{}}}}', calls=(ROME, NONE)),
    Case("phi4_mini_json", f"[{CALL}]", calls=(ROME,)),
    Case("olmo3", CALL, calls=(ROME,)),
    # Kimi.
    Case("kimi_k2", f'{KS}{KC}functions.f:3{KA}{{"city": "Rome"}}{KX}'
         f"{KC}functions.g:4 {KA} {{}}{KX}{KE}", calls=(ROME, NONE),
         ids=("functions.f:3", "functions.g:4")),
    Case("kimi_k2", f"a{KC}functions.h:0{KA}{{}}", f"a{KC}functions.h:0{KA}{{}}"),
    # Qwen3-Coder.
    Case("qwen3_coder", "So\n<tool_call>\n<function=f>\n<parameter=city>\nRome\n\n</parameter>\n"
         "<parameter=days>\n3\n</parameter>\n<parameter=on>true</parameter>\n</function>\n"
         "</tool_call>\n<function=g>\n</function>", "So",
         (("f", {"city": "Rome\n", "days": 3, "on": True}), NONE)),
    Case("qwen3_coder", "<tool_call><function=f><parameter=list>[1, {'a': True}]</parameter>"
         "<parameter=either>3</parameter><parameter=kind>null</parameter><parameter=x>null"
         "</parameter><parameter=days>many</parameter></function></tool_call>", calls=(
         ("f", {"list": [1, {"a": True}], "either": 3, "kind": None, "x": "null",
                "days": "many"}),)),
    Case("qwen3_coder", '<tool_call><function=f><parameter=city>a "b" \\ ü</parame</parameter> no',
         "no", (("f", {"city": 'a "b" \\ ü</parame'}),)),
    Case("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=city>\nRo", calls=(
         ("f", '{"city": "Ro'),)),
    Case("qwen3_coder", "<tool_call>\n<function=h>\n</function>", "<tool_call>\n<function=h>\n"
         "</function>"),
    Case("qwen3_coder", "<function=f>nothing", "<function=f>nothing"),
    # End tags that the model forgot.
    Case("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=city>\nRome\n<parameter=days>\n3\n"
         "</function>\n</tool_call>", calls=(("f", {"city": "Rome", "days": 3}),)),
    # GLM.
    Case("glm45", "So\n<tool_call>f\n<arg_key>city</arg_key>\n<arg_value> Rome</arg_value>\n"
         "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>g</tool_call>",
         "So", (("f", {"city": " Rome", "days": 3}), NONE)),
    Case("glm45", "<tool_call>f<arg_key>either</arg_key><arg_value>3 m</arg_value>"
         "<arg_key>city</arg_key>", calls=(("f", '{"either": "3 m"'),)),
    Case("glm45", "<tool_call>f<arg_key>city</arg_key><arg_value>Rome</arg_value>\n</tool_",
         calls=(("f", '{"city": "Rome"'),)),
    Case("glm45", "<tool_call>f<arg_key>city</arg_key>\n<arg_val", calls=(("f", ""),)),
    Case("glm45", "<tool_call>f<arg_key>city</arg_key>Rome</tool_call>", "Rome</tool_call>",
         (("f", {}),)),
    Case("glm45", "<tool_call>h</tool_call>", "<tool_call>h</tool_call>"),
    # Lists behind a marker.
    Case("phi4_mini_json", f'functools[{CALL}, {{"name": "g", "arguments": {{}}}}]',
         calls=(ROME, NONE)),
    Case("phi4_mini_json", f"<|tool_call|>[{CALL}]<|/tool_call|>", calls=(ROME,)),
    Case("phi4_mini_json", "functools are [nice]", "functools are [nice]"),
    Case("granite", '<|tool_call|>[{"arguments": {"city": "Rome"}, "name": "f"}]',
         calls=(ROME,)),
    Case("granite", f"<tool_call>[{CALL}]</tool_call>", calls=(ROME,)),
    Case("granite", "<|tool_call|>[]", "<|tool_call|>[]"),
    # OLMo.
    Case("olmo3", "So <function_calls>f(city='Rome')\ng()</function_calls>", "So", (ROME, NONE)),
    Case("olmo3", "<function_calls>f(on=true, list=[null, -1.5])</function_calls>", calls=(
         ("f", {"on": True, "list": [None, -1.5]}),)),
    Case("olmo3", "<function_calls>f(days=1e999)", "<function_calls>f(days=1e999)"),
]  # fmt: skip
