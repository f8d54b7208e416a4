"""Texts as models write them, format by format, with what is in them; ids, names, types and refusals included."""

from __future__ import annotations

import pytest
from tool_cases import account, essence, streamed

from mlxlm.tools import parse
from mlxlm.tools.formats import find
from mlxlm.tools.formats.deepseek import write_v3, write_v32
from mlxlm.tools.formats.mistral import write_list

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"},
                                     "metric": {"type": "boolean"}, "tags": {"type": "array"}}}}}
TOOLS = [WEATHER, {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
PARIS = ("get_weather", {"city": "Paris"})
PARIS2 = ("get_weather", {"city": "Paris", "days": 2})
NOW = ("now", {})
XML = "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
KIMI = ("<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{\"city\":\"Paris\"}<|tool_call_end|>")
HARMONY = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city":"Paris"}'
SEP = "<｜tool▁sep｜>"
DEEP = ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")
CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"

# format, text, calls, content
READ = [
    ("json", '<tool_call>{"name":"get_weather","arguments":{"city":"Paris"}}</tool_call>', [PARIS], ""),
    ("json", 'A\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n<tool_call>\n'
             '{"name": "now", "arguments": {}}\n</tool_call> B', [PARIS, NOW], "A\n\n B"),
    ("json", '<tool_call>{"id":"x1","type":"function","function":{"name":"get_weather","arguments":"{\\"city\\": '
             '\\"Paris\\"}"}}</tool_call>', [PARIS], ""),
    ("json", '<tool_call>{{"name":"get_weather","arguments":{"city":"Paris"}}}</tool_call>', [PARIS], ""),
    ("json", '<tool_call>[{"name":"get_weather","arguments":{"city":"Paris"}},{"name":"now"}]</tool_call>',
     [PARIS, NOW], ""),
    ("json", '<tool_call>{"name":"get_weather","arguments":{"city":"Paris"}}\n{"name":"now"}</tool_call>',
     [PARIS, NOW], ""),
    ("json", 'Sure: {"name": "get_weather", "arguments": {"city": "Paris"}} ok', [PARIS], "Sure:  ok"),
    ("json", '{"city": {"name": "now", "arguments": {}}}', [], '{"city": {"name": "now", "arguments": {}}}'),
    ("json", 'for (;;) { x[0] = {"a": 1}; } <tool_call>{"name": "now"}</tool_call>', [NOW],
     'for (;;) { x[0] = {"a": 1}; } '),
    ("json", '<tool_call>{"name":"get_weather","arguments":{"city":"</tool_call>"}}</tool_call>',
     [("get_weather", {"city": "</tool_call>"})], ""),
    ("json", '<tool_call>{"name":"get_weather","arguments":{"city":"Paris"}}', [PARIS], ""),
    ("json", '<tool_call>{"name":"now"}<tool_call>{"name":"now"}</tool_call>', [NOW, NOW], ""),
    ("json", '<tool_call>{"name":"get_weather","arguments":{"days":"2"}}</tool_call>',
     [("get_weather", {"days": "2"})], ""),
    ("xml_function", XML, [PARIS], ""),
    ("xml_function", XML.removesuffix("</tool_call>"), [PARIS], ""),
    ("xml_function", XML.removeprefix("<tool_call>\n"), [PARIS], ""),
    ("xml_function", "<tool_call><function=get_weather><parameter=city>\n\n  a < b &amp; c\n\n</parameter>"
                     "<parameter=days>2</parameter><parameter=metric>True</parameter>"
                     "<parameter=tags>['a', 1]</parameter></function></tool_call>",
     [("get_weather", {"city": "\n  a < b &amp; c\n", "days": 2, "metric": True, "tags": ["a", 1]})], ""),
    ("xml_function", XML.replace("Paris", "a</parameter>b"), [("get_weather", {"city": "a</parameter>b"})], ""),
    ("glm4", "<tool_call>get_weather<arg_key>city</arg_key><arg_value>a</arg_value> b</arg_value></tool_call>",
     [("get_weather", {"city": "a</arg_value> b"})], ""),
    ("xml_function", XML * 2, [PARIS, PARIS], ""),
    ("xml_function", "<tool_call><function=now></function><function=now></function></tool_call>", [NOW, NOW], ""),
    ("xml_function", "say `<function` or <functional> or <div>", [], "say `<function` or <functional> or <div>"),
    ("xml_function", "<tool_call><function=get_weather><parameter=days>soon</parameter></function></tool_call>",
     [("get_weather", {"days": "soon"})], ""),
    ("xml_function", "a <function=now> tag, and a <function=", [], "a <function=now> tag, and a <function="),
    ("qwen3_5", XML, [PARIS], ""),
    ("qwen3_5", '<tool_call>{"name":"get_weather","arguments":{"city":"<function=fake>"}}',
     [("get_weather", {"city": "<function=fake>"})], ""),
    ("lfm2", "<|tool_call_start|>[get_weather(city='Paris', days=2), now()]<|tool_call_end|>Hm", [PARIS2, NOW], "Hm"),
    ("lfm2", "<|tool_call_start|>get_weather(city=\"Paris\", days='2')", [PARIS2], ""),
    ("lfm2", "<|tool_call_start|>[get_weather(city=25, tags=[True, null, {'a': false}], metric=true)]<|tool_call_end|>",
     [("get_weather", {"city": "25", "tags": [True, None, {"a": False}], "metric": True})], ""),
    ("lfm2", "<|tool_call_start|>[get_weather(properties={'city': 'Paris', 'days': '2'})]<|tool_call_end|>",
     [PARIS2], ""),
    ("lfm2", "<|tool_call_start|>[get_weather(city='a<|tool_call_end|>)]')]<|tool_call_end|>",
     [("get_weather", {"city": "a<|tool_call_end|>)]"})], ""),
    ("pythonic", "[get_weather(city='Paris', days=2), now()]", [PARIS2, NOW], ""),
    ("pythonic", "<function_calls>get_weather(city=\"Paris\")\nnow()</function_calls>", [PARIS, NOW], ""),
    ("pythonic", "<|python_start|>[now()]<|python_end|>", [NOW], ""),
    ("pythonic", "[1, 2] and [see(p) below] and [f(x=1) for x in y]", [],
     "[1, 2] and [see(p) below] and [f(x=1) for x in y]"),
    ("glm4", "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>"
             "\n<arg_value>2</arg_value>\n</tool_call>", [PARIS2], ""),
    ("glm4", "<tool_call>now</tool_call><tool_call>now\n</tool_call>", [NOW, NOW], ""),
    ("glm4", '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>', [PARIS], ""),
    ("gemma", "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}<end_function_call>",
     [PARIS2], ""),
    ("gemma", "<start_function_call>call:get_weather{city:<escape>}, <end_function_call><escape>}<end_function_call>!",
     [("get_weather", {"city": "}, <end_function_call>"})], "!"),
    ("gemma4", '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>', [PARIS2], ""),
    ("gemma4", '<|tool_call>call:get_weather{city:<|"|>a\\nb<|"|>, days: <|"|>2<|"|>, metric:true,tags:[x,{b:null}]}'
               'call:now{}<tool_call|>',
     [("get_weather", {"city": "a\\nb", "days": 2, "metric": True, "tags": ["x", {"b": None}]}), NOW], ""),
    ("gemma4", '<|tool_call>call:get_weather{city:Paris}', [PARIS], ""),
    ("kimi_k2", f"<|tool_calls_section_begin|>{KIMI}<|tool_calls_section_end|>", [PARIS], ""),
    ("kimi_k2", f"<|tool_calls_section_begin|>{KIMI}\n{KIMI.replace(':0', ':1')}<|tool_calls_section_end|>.",
     [PARIS, PARIS], "."),
    ("kimi_k2", '<|tool_calls_section_begin|>now:0<|tool_call_argument_begin|>{}<|tool_calls_section_end|>', [NOW], ""),
    ("kimi_k2", KIMI, [PARIS], ""),
    ("minimax_m2", '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n'
                   '<parameter name="days">2</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n'
                   '</minimax:tool_call>', [PARIS2, NOW], ""),
    ("mistral", '[TOOL_CALLS]get_weather[CALL_ID]abc123XYZ[ARGS]{"city":"Paris"}', [PARIS], ""),
    ("mistral", 'I look. [TOOL_CALLS]get_weather [ARGS]{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}', [PARIS, NOW],
     "I look. "),
    ("mistral", '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": '
                '{}, "id": "abc123XYZ"}]', [PARIS, NOW], ""),
    ("mistral", '[TOOL_CALLS]get_weather{"city": "[TOOL_CALLS]now[ARGS]{}"}',
     [("get_weather", {"city": "[TOOL_CALLS]now[ARGS]{}"})], ""),
    ("llama3", '<|python_tag|>{"name":"get_weather","parameters":{"city":"Paris"}}', [PARIS], ""),
    ("llama3", '<|python_tag|>{"name":"get_weather","parameters":{"city":"Paris"}}; {"name":"now","parameters":{}}',
     [PARIS, NOW], ""),
    ("llama3", '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}', [PARIS], ""),
    ("llama3", '[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": {}}]',
     [PARIS, NOW], ""),
    ("llama3", '<|python_tag|>get_weather(city="Paris")', [PARIS], ""),
    ("llama3", '<function=get_weather>{"city": "Paris"}</function>', [PARIS], ""),
    ("gpt_oss", HARMONY + "<|call|>", [PARIS], ""),
    ("gpt_oss", HARMONY, [PARIS], ""),
    ("gpt_oss", "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.get_weather<|channel|>"
                'commentary<|message|>{"city": "Paris"}<|call|>', [PARIS], "I look."),
    ("gpt_oss", f"{HARMONY}<|end|><|start|>assistant{HARMONY}<|call|>", [PARIS, PARIS], ""),
    ("gpt_oss", '<|channel|>final <|constrain|>JSON<|message|>{"a": 1}<|return|>', [], '{"a": 1}'),
    ("gpt_oss", HARMONY.replace("Paris", "<|call|>") + "<|call|>", [("get_weather", {"city": "<|call|>"})], ""),
    ("deepseek", f'{CALLS_BEGIN}{DEEP[0]}function{SEP}get_weather\n```json\n{{"city": "Paris"}}\n```{DEEP[1]}\n'
                 f'{DEEP[0]}function{SEP}now\n```json\n{{}}\n```{DEEP[1]}{CALLS_END}', [PARIS, NOW], ""),
    ("deepseek", f'{CALLS_BEGIN}{DEEP[0]}get_weather{SEP}{{"city": "Paris"}}{DEEP[1]}{CALLS_END}', [PARIS], ""),
    ("deepseek", '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
                 '<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n'
                 '<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n'
                 '</｜DSML｜invoke>\n</｜DSML｜function_calls>', [PARIS2], ""),
    ("granite", '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]', [PARIS], ""),
    ("granite", '<tool_call>[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "now"}] ok',
     [PARIS, NOW], " ok"),
    ("atem", '<atem:function_calls><atem:invoke name="get_weather"><atem:parameter name="city"> Paris </atem:parameter>'
             '</atem:invoke></atem:function_calls>', [("get_weather", {"city": " Paris "})], ""),
    ("longcat", "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>\n<longcat_arg_value>Paris"
                "</longcat_arg_value>\n</longcat_tool_call>", [PARIS], ""),
    ("longcat", '<longcat_tool_call>{"name": "now", "arguments": {}}</longcat_tool_call>', [NOW], ""),
    ("minicpm", '<function name="get_weather"><param name="city"><![CDATA[<b>]]></param><param name="days">2</param>'
                '</function>', [("get_weather", {"city": "<b>", "days": 2})], ""),
]


@pytest.mark.parametrize("format,text,calls,content", READ, ids=[f"{row[0]}-{i}" for i, row in enumerate(READ)])
def test_reads(format, text, calls, content):
    output = parse(text, format, TOOLS)
    account(output, text)
    assert not output.rejected
    assert [(call.name, call.arguments) for call in output.tool_calls] == calls
    assert output.content == content
    assert essence(streamed(text, list(range(1, len(text))), format, TOOLS)) == essence(output)


# format, text, reason, name, content that is left
REFUSED = [
    ("json", '<tool_call>{"name": "get_weather", "arguments": {"city": Paris}}</tool_call> so', "malformed_syntax",
     None, " so"),
    ("json", '<tool_call>{"name": "get_weather", "argum', "incomplete_output", None, ""),
    ("json", '<tool_call>{"arguments": {}}</tool_call>', "missing_tool_name", None, ""),
    ("json", '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', "undeclared_tool", "rm", ""),
    ("json", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>', "invalid_arguments", "now", ""),
    ("json", '<tool_call>{"name": "now", "arguments": "[]"}</tool_call>', "invalid_arguments", "now", ""),
    ("json", 'A {"name": "now", "arguments": {"a"', "incomplete_output", None, "A "),
    ("json", "<tool_call></tool_call>", "malformed_syntax", None, ""),
    ("qwen3_5", '<tool_call>{"name": "now", "arguments": {}} yes</tool_call>', "malformed_syntax", None, ""),
    ("qwen3_5", "<tool_call><function=now>hm</function></tool_call>", "malformed_syntax", "now", ""),
    ("xml_function", "<tool_call><function=get_weather><parameter=city>Par", "incomplete_output", "get_weather", ""),
    ("xml_function", "<function=get_weather>\n<param", "incomplete_output", "get_weather", ""),
    ("minicpm", '<function name="get_weather">', "incomplete_output", "get_weather", ""),
    ("xml_function", "<tool_call><function=rm></function></tool_call>", "undeclared_tool", "rm", ""),
    ("lfm2", "<|tool_call_start|>[get_weather('Paris')]<|tool_call_end|>.", "malformed_syntax", None, "."),
    ("lfm2", "<|tool_call_start|>[get_weather(city='Par", "incomplete_output", None, ""),
    ("glm4", "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>", "incomplete_output",
     "get_weather", ""),
    ("gemma4", '<|tool_call>call:get_weather{city:<|"|>Par', "incomplete_output", "get_weather", ""),
    ("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{a}"
                "<|tool_call_end|><|tool_calls_section_end|>", "malformed_syntax", "now", ""),
    ("minimax_m2", '<minimax:tool_call><invoke name="get_weather"><parameter name="city">P', "incomplete_output",
     "get_weather", ""),
    ("mistral", "[TOOL_CALLS]get_weather[ARGS]Paris", "malformed_syntax", "get_weather", ""),
    ("mistral", "[TOOL_CALLS][ARGS]{}", "missing_tool_name", "", ""),
    ("gpt_oss", HARMONY.replace("}", "") + "<|call|>", "malformed_syntax", "get_weather", ""),
    ("gpt_oss", "<|channel|>commentary to=functions.get", "incomplete_output", "get", ""),
    ("atem", '<atem:function_calls><atem:invoke name="rm"></atem:invoke></atem:function_calls>', "undeclared_tool",
     "rm", ""),
]


@pytest.mark.parametrize("format,text,reason,name,content", REFUSED,
                         ids=[f"{row[0]}-{i}" for i, row in enumerate(REFUSED)])
def test_refuses_and_keeps_the_text(format, text, reason, name, content):
    output = parse(text, format, TOOLS)
    account(output, text)
    assert not output.tool_calls and [rejected.reason for rejected in output.rejected] == [reason]
    assert output.rejected[0].name == name and output.content == content
    assert output.rejected[0].raw + content in (text, content + text) or content + output.rejected[0].raw == text
    assert essence(streamed(text, list(range(1, len(text))), format, TOOLS)) == essence(output)


def test_a_bad_call_does_not_take_the_good_ones_with_it():
    text = ("<|tool_calls_section_begin|>" + KIMI.replace("}", "") + KIMI.replace(":0", ":1")
            + "<|tool_calls_section_end|>")
    output = parse(text, "kimi_k2", TOOLS)
    assert [call.id for call in output.tool_calls] == ["functions.get_weather:1"]
    assert [rejected.reason for rejected in output.rejected] == ["malformed_syntax"]


@pytest.mark.parametrize("format,text,ids", [
    ("json", '<tool_call>{"id": "a", "name": "now"}</tool_call><tool_call>{"id": "a", "name": "now"}</tool_call>', "a"),
    ("kimi_k2", KIMI + KIMI, "functions.get_weather:0"),
    ("mistral", "[TOOL_CALLS]now[CALL_ID]abc123XYZ[ARGS]{}[TOOL_CALLS]now[CALL_ID]abc123XYZ[ARGS]{}", "abc123XYZ"),
])
def test_an_id_is_kept_once(format, text, ids):
    first, second = parse(text, format).tool_calls
    assert first.id == ids and second.id not in ("", ids)


def test_new_ids_look_as_their_family_wants_them():
    (call,) = parse('<tool_call>{"name": "now"}</tool_call>', "json").tool_calls
    assert call.id.startswith("call_") and len(call.id) == 37 and int(call.id[5:], 16) >= 0
    (call,) = parse("[TOOL_CALLS]now[ARGS]{}", "mistral").tool_calls
    assert len(call.id) == 9 and call.id.isalnum()
    (call,) = parse("[TOOL_CALLS]now[ARGS]{}", "mistral", new_id=lambda: "mine").tool_calls
    assert call.id == "mine"


def test_no_tools_offered_means_that_none_may_be_called():
    text = '<tool_call>{"name": "now"}</tool_call>'
    assert [r.reason for r in parse(text, "json", []).rejected] == ["undeclared_tool"]
    assert len(parse(text, "json", None).tool_calls) == 1
    assert parse(text).content == text


@pytest.mark.parametrize("write,format", [(write_v3, "deepseek"), (write_v32, "deepseek"), (write_list, "mistral")])
def test_the_other_generations_are_written_too(write, format):
    calls = parse(find("json").write(parse(READ[1][1], "json").tool_calls), "json").tool_calls
    back = parse(write(calls), format)
    assert [(call.name, call.arguments) for call in back.tool_calls] == [PARIS, NOW] and not back.rejected
