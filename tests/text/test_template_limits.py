"""Templates that loop, recurse, grow, or do what they may not: a TemplateError, soon, and little memory."""

import resource
import threading

import pytest

from mlxlm.errors import TemplateError
from mlxlm.text.limits import CHARACTERS, STEPS
from mlxlm.text.template import LONGEST, compile_template, render

CHAT = [{"role": "user", "content": "hi"}]
NS = "{% set n = namespace(x=[1], s='a', i=9) %}{% for i in range(60) %}"

TOO_MUCH = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "loops that print": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "range": "{% for a in range(10**9) %}{% endfor %}",
    "recursive macro": "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "branching macro":
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "text times number": "{{ 'a' * 10**9 }}",
    "number times text": "{{ 10**9 * 'a' }}",
    "list times number": "{{ [1] * 10**9 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "powers": NS + "{% set n.i = n.i * n.i %}{% endfor %}",
    "doubled by ~": NS + "{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubled by +": NS + "{% set n.s = n.s + n.s %}{% endfor %}",
    "doubled by format": NS + "{% set n.s = '%s%s' % (n.s, n.s) %}{% endfor %}",
    "doubled by a block": NS + "{% set b %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = b %}{% endfor %}",
    "nested lists": NS + "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "nested tuples": NS + "{% set n.x = (n.x, n.x) %}{% endfor %}{{ n.x == [n.x] }}",
    "nested dicts": NS + "{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}{{ n.x | tojson }}",
    "nested arguments": "{% macro m() %}{% set n.x = varargs %}{% endmacro %}" + NS + "{{ m(n.x, n.x) }}{% endfor %}",
    "nested rows": NS + "{% set n.x = [n.x] | batch(2, n.x) | list %}{% endfor %}{{ n.x }}",
    "nested repetition": NS + "{% set n.x = [n.x] * 2 %}{% endfor %}",
    "center": "{{ 'a' | center(10**9) }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "indent": "{{ ('a\n' * 100000) | indent(99999) }}",
    "format": "{{ '%1000000000d' % 1 }}",
    "format by argument": "{{ '%*d' % (10**9, 1) }}",
    "str.format": "{{ '{:1000000000}'.format(1) }}",
    "str.format by argument": "{{ '{:{}}'.format(1, 10**9) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "replace": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "str.replace": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "translate": "{{ ('a' * 100000).translate({97: 'b' * 100000}) }}",
    "join": "{{ range(99999) | join('a' * 100000) }}",
    "str.join": "{{ ('a' * 100000).join('b' * 100000) }}",
    "tojson": "{{ [1] | tojson(indent=10**9) }}",
    "round": "{{ 1.5 | round(10**9, 'ceil') }}",
    "wordwrap": "{{ ('a ' * 90000) | wordwrap(1, wrapstring='b' * 90000) }}",
    "map": "{{ range(99999) | map('string') | map('center', 90000) | list }}",
    "search": "{{ range(99999) | select('in', range(99999) | list) | list | length }}",
    "sort": "{% set a = range(99999) | list %}{% set b = range(99999) | list %}{{ ([a] * 500 + [b] * 500) | sort }}",
    "output": "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s }}{% endfor %}",
    "a block": "{% set s = 'a' * 1000000 %}{% set x %}{% for i in range(99999) %}{{ s }}{% endfor %}{% endset %}",
    "slices": "{% set n = namespace(x=[]) %}{% set s = 'a' * 1000000 %}{% for i in range(99999) %}"
              "{% set n.x = n.x + [s[1:]] %}{% endfor %}",
    "printed lists": "{% set s = [1] * 100000 %}{% macro m() %}{% for i in range(9999) %}{{ s }}{% endfor %}"
                     "{% endmacro %}{{ m() }}",
}
FORBIDDEN = {
    "types": "{{ ''.__class__.__mro__ }}",
    "change a list": "{{ messages.append(1) }}",
    "change a dict": "{{ messages[0].update(role='x') }}",
    "private names": "{% set n = namespace() %}{% set n._x = 1 %}",
    "bytes": "{{ 'a'.encode() }}",
    "format attributes": "{{ '{0.__class__}'.format(1) }}{{ raise_exception('reached') }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "filters that aren't there": "{{ 1 | nofilter }}",
    "lipsum": "{{ lipsum(n=10**9) }}",
    "division": "{{ 1 / 0 }}",
    "missing fields": "{{ nothing.at.all }}",
    "wrong types": "{{ 1 + 'a' }}",
    "itself as JSON": "{% set n = namespace() %}{% set n.x = n %}{{ [n] | tojson }}",
}
NESTED = {
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "ifs": "{% if 1 %}" * 300 + "{% endif %}" * 300,
    "fors": "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
    "a number": "{{ " + "9" * 10000 + " }}",
    "too long": "x" * (LONGEST + 1),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_is_refused(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TemplateError) as caught:
        render(TOO_MUCH[name], CHAT)
    assert "syntax" not in str(caught.value) and "isn't there" not in str(caught.value)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 12 * CHARACTERS  # ru_maxrss is in KiB


@pytest.mark.parametrize("name", [*FORBIDDEN, *NESTED])
def test_what_a_template_may_not_do(name):
    with pytest.raises(TemplateError):
        render({**FORBIDDEN, **NESTED}[name], CHAT)


def test_private_attributes_in_formats_are_empty():
    assert "class" not in render("{{ '{0.__class__}'.format(1) }}", CHAT).text


@pytest.mark.parametrize(("template", "line", "words"), [
    ("a\n\n{% if %}", 3, "syntax error"),
    ("a\n{% for x in y %}", 2, "syntax error"),
    ("a\nb\n{{ raise_exception('no system role, please') }}", 3, "no system role, please"),
    ("{% macro m() %}\n{{ 1 + 'a' }}\n{% endmacro %}\n\n{{ m() }}", 2, "TypeError"),
    ("a\n{{ nothing.x }}", 2, "'nothing' is undefined"),
    ("a\n{% for i in range(99999) %}\n{% for j in range(99999) %}{% endfor %}{% endfor %}", 3, f"{STEPS:,} steps"),
])
def test_errors_name_file_and_line(template, line, words):
    with pytest.raises(TemplateError) as caught:
        render(template, CHAT, where="some/chat_template.jinja")
    assert str(caught.value).startswith(f"some/chat_template.jinja, line {line}: ")
    assert words in str(caught.value)


def test_a_long_conversation_is_no_attack():
    chat = [{"role": ("user", "assistant")[i % 2], "content": "word " * 400} for i in range(2000)]
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    grown = ("{% set n = namespace(s='', l=[]) %}{% for m in messages %}{% set n.s = n.s ~ m.content[:20] %}"
             "{% set n.l = n.l + [m] %}{% endfor %}{{ n.s }}{{ n.l | length }}")
    assert len(render(chatml, chat).text) > 4_000_000
    assert render(grown, chat).text.endswith("2000")


def test_templates_are_compiled_once_and_render_from_many_threads():
    template = "{% for i in range(200) %}{{ i }},{{ word }};{% endfor %}"
    assert compile_template(template) is compile_template(template)
    results = {}

    def work(word):
        results[word] = [render(template, CHAT, variables={"word": word}).text for _ in range(20)]

    threads = [threading.Thread(target=work, args=(str(i),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for word, texts in results.items():
        assert set(texts) == {"".join(f"{i},{word};" for i in range(200))}
    assert len(results) == 6


def test_a_rendering_does_not_use_up_the_next_ones_budget():
    template = "{% for i in range(90000) %}{% endfor %}done"
    for _ in range(15):
        assert render(template, CHAT).text == "done"
