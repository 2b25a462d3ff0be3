"""Chat templates in their child: as transformers renders them, and nothing that one does harms who asked for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from openmaas.core.errors import EngineFailed, OpenMaaSError, Unavailable
from openmaas.processing.generation import ChatTemplate, probe_template, rendering
from tests.tiny_writer import CHAT_TEMPLATE

pytest.importorskip("jinja2")
HELLO = [{"role": "user", "content": "Grüße 🙂 <|im_end|>"}]
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "dach", "é": [1.5, None]}}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    *HELLO,
    {"role": "assistant", "content": "", "tool_calls": [{"id": "123456789", **CALL}]},
    {"role": "tool", "content": "21", "tool_call_id": "123456789"},
]
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks & <tells>", "parameters": {"type": "object"}}}
Make = Callable[..., ChatTemplate]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[ChatTemplate] = []

    def one(template: str, special: dict[str, str] | None = None, **options: Any) -> ChatTemplate:
        made.append(ChatTemplate(template, special or {}, **options))
        return made[-1]

    yield one
    for template in made:
        await template.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def child_of(template: ChatTemplate) -> int:
    assert template._child is not None
    return template._child.pid


# ── as templates expect it ───────────────────────────────────────────────────────────────────────────────────────────

CONVENTIONS = {
    "the tiny writer": CHAT_TEMPLATE,
    "blocks are trimmed": "  {% for m in messages %}\n    {%- if m.content %}\n  {{ m.role }}\n {% endif %}\n{% endfor %}\nend",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m }}{% continue %}x{% endfor %}",
    "JSON": "{{ tools | tojson }}|{{ tools | tojson(indent=2) }}",
    "more JSON": "{{ messages | tojson(separators=(',', ':'), sort_keys=true) }}{{ messages | tojson(ensure_ascii=true) }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "macros": "{% macro one(m) %}[{{ m.role }}]{% endmacro %}{% for m in messages %}{{ one(m) }}{% endfor %}",
    "variables": "{{ bos_token }}{{ think }}{{ undefined }}{% if add_generation_prompt %}go{% endif %}{{ documents }}",
    "methods of texts": "{{ messages[0].content.strip().split('b')[-1].upper() }}{{ messages[1]['content'][::-1] }}",
    "filters": "{{ messages | map(attribute='role') | join(',') }}{{ messages | selectattr('role', 'eq', 'user') | list }}",
    "more filters": "{{ 'a b c' | wordwrap(2) | indent(4) }}{{ dict(a=1) | items | list }}{{ messages | length | string }}",
    "the time": "{{ strftime_now('%Y-%m-%d') }}",
}


@pytest.mark.parametrize("name", CONVENTIONS)
async def test_renders_as_transformers_does(name: str, make: Make) -> None:
    transformers = pytest.importorskip("transformers.utils.chat_template_utils")
    text = CONVENTIONS[name]
    variables = {"bos_token": "<s>", "think": False}
    (expected,), _ = transformers.render_jinja_template(
        conversations=[TALK], tools=[TOOL], chat_template=text, add_generation_prompt=True, **variables
    )
    assert await make(text, {"bos_token": "<s>"}).render(TALK, [TOOL], {"think": False}) == expected


async def test_a_variable_may_not_take_the_place_of_the_conversation(make: Make) -> None:
    template = make("{{ messages[0].content }}{{ tools }}{{ add_generation_prompt }}{{ bos_token }}", {"bos_token": "<s>"})
    said = await template.render(HELLO, [], {"messages": [], "tools": [1], "add_generation_prompt": False, "bos_token": "B"})
    assert said == "Grüße 🙂 <|im_end|>NoneFalseB"


async def test_a_refusal_is_in_the_templates_own_words(make: Make) -> None:
    template = make("{{ raise_exception('Only user and assistant roles are supported!') }}")
    with pytest.raises(OpenMaaSError) as caught:
        await template.render(HELLO)
    assert (caught.value.status, caught.value.code) == (400, "template_refused")
    assert "Only user and assistant roles are supported!" in caught.value.message


@pytest.mark.parametrize(
    "text", ["{% if", "{{ x | no_such_filter }}", "{{ " + "(" * 9_000 + "1" + ")" * 9_000 + " }}", "{% nope %}"]
)
async def test_a_template_that_cannot_be_compiled_is_told_at_the_start(text: str, make: Make) -> None:
    with pytest.raises(EngineFailed, match="cannot be compiled"):
        await make(text).start()


async def test_what_json_cannot_hold_is_refused(make: Make) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    template = make("{{ messages }}")
    for wrong in (object(), deep, "\ud800"):
        with pytest.raises(OpenMaaSError) as caught:
            await template.render([{"role": "user", "content": wrong}])
        assert caught.value.status == 400
    while deep:  # so that taking it apart needs no recursion either
        deep = deep.pop()
    assert "user" in await template.render(HELLO)


# ── what a template may try ──────────────────────────────────────────────────────────────────────────────────────────

HARMLESS_AFTER = "{% if messages[0].content == 'again' %}well{% else %}ATTACK{% endif %}"
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
ATTACKS = {
    "loops": (LOOP, "template_timeout"),
    "a number": ("{{ (messages | length + 8) ** (9 ** 9) }}", "template_timeout"),
    "a long text": ("{{ 'a' * 10 ** 10 }}", "template_memory"),
    "a list that doubles": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "template_memory"),
    "padding": ("{{ '' | center(10 ** 10) }}", "template_memory"),
    "much output": ("{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}", "prompt_too_large"),
    "one piece of output": ("{{ 'x' * 5000000 }}", "prompt_too_large"),
    "classes": ("{{ ''.__class__.__mro__ }}", "template_failed"),
    "globals": ("{{ cycler.__init__.__globals__ }}", "template_failed"),
    "a format": ("{{ '{0.__class__.__mro__}'.format(1) }}", "template_failed"),
    "a filter": ("{{ (messages | attr('__class__')).__mro__ }}", "template_failed"),
    "a namespace": ("{{ namespace(__class__=1) }}", "template_failed"),
    "including": ("{% include '/etc/passwd' %}", "template_failed"),
    "importing": ("{% import 'os' as os %}{{ os.getcwd() }}", "template_failed"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "template_failed"),
    "a huge range": ("{{ range(10 ** 9) | list }}", "template_failed"),
    "changing what it is given": ("{{ messages.append(1) }}", "template_failed"),
    "half a character": ("{{ '\\ud800' }}", "template_failed"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_fails_and_the_next_conversation_is_rendered(name: str, make: Make) -> None:
    text, code = ATTACKS[name]
    template = make(HARMLESS_AFTER.replace("ATTACK", text))
    await template.start()
    attack = asyncio.create_task(template.render([{"role": "user", "content": "attack"}]))
    await asyncio.sleep(0)
    beside = asyncio.create_task(template.render([{"role": "user", "content": "again"}]))
    with pytest.raises(OpenMaaSError) as caught:
        await attack
    assert caught.value.code == code
    assert caught.value.status == (413 if code == "prompt_too_large" else 400)
    assert await beside == "well"
    assert await template.render([{"role": "user", "content": "again"}]) == "well"


async def test_a_hanging_child_is_killed_in_time_also_where_it_does_not_compute(make: Make) -> None:
    template = make("ok", seconds=0.5)
    await template.start()
    before = child_of(template)
    os.kill(before, signal.SIGSTOP)
    with pytest.raises(OpenMaaSError) as caught:
        await template.render(HELLO)
    assert caught.value.code == "template_timeout"
    assert not alive(before)
    assert await make("ok").render(HELLO) == "ok"


def test_on_the_loop_that_replicas_run_on() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> list[str]:
        template = ChatTemplate(HARMLESS_AFTER.replace("ATTACK", LOOP), {})
        again = [{"role": "user", "content": "again"}]
        said = [await template.render(again)]
        try:
            await template.render(HELLO)
        except OpenMaaSError as error:
            said.append(error.code)
        said.append(await template.render(again))
        await template.close()
        return said

    assert uvloop.run(main()) == ["well", "template_timeout", "well"]


@pytest.mark.parametrize("idle", [True, False])
async def test_a_child_that_was_killed_is_replaced(idle: bool, make: Make) -> None:
    template = make(HARMLESS_AFTER.replace("ATTACK", LOOP))
    await template.start()
    before = child_of(template)
    if idle:
        os.kill(before, signal.SIGKILL)
        while alive(before):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    else:
        asking = asyncio.create_task(template.render(HELLO))
        await asyncio.sleep(0.2)
        os.kill(before, signal.SIGKILL)
        with pytest.raises(EngineFailed) as caught:
            await asking
        assert caught.value.code == "template_crashed"
    assert await template.render([{"role": "user", "content": "again"}]) == "well"
    assert child_of(template) != before


async def test_a_caller_who_leaves_leaves_no_answer_for_the_next(make: Make) -> None:
    template = make(HARMLESS_AFTER.replace("ATTACK", LOOP))
    await template.start()
    leaving = asyncio.create_task(template.render(HELLO))
    await asyncio.sleep(0.05)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await template.render([{"role": "user", "content": "again"}]) == "well"


async def test_nothing_is_rendered_for_those_who_left_while_they_waited(make: Make) -> None:
    template = make("{{ messages[0].content }}")
    await template.start()
    left = False
    async with template._turn:  # another one is being rendered
        waiting = [asyncio.create_task(template.render(HELLO, wanted=lambda: not left)) for _ in range(3)]
        await asyncio.sleep(0)
        left = True
    assert [type(result) for result in await asyncio.gather(*waiting, return_exceptions=True)] == [Unavailable] * 3
    assert await template.render(HELLO) == HELLO[0]["content"]


async def test_many_at_once_and_no_more_than_that(make: Make) -> None:
    template = make("{{ messages[0].content }}", waiting=8)
    asked = [asyncio.create_task(template.render([{"role": "user", "content": str(n)}])) for n in range(20)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert answers[:8] == [str(n) for n in range(8)]
    assert all(isinstance(answer, Unavailable) and answer.retry_after for answer in answers[8:])
    assert await template.render(HELLO) == HELLO[0]["content"]


async def test_megabytes_go_through(make: Make) -> None:
    text = "模🙂é" * 1_000_000
    assert await make("{{ messages[0].content }}").render([{"role": "user", "content": text}]) == text


async def test_the_child_has_no_secrets_no_files_and_little_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENMAAS_SECRET", "x")
    template = make("ok")
    await template.start()
    process = Path(f"/proc/{child_of(template)}")
    assert b"SECRET" not in (process / "environ").read_bytes()
    assert sorted(path.name for path in (process / "fd").iterdir()) == ["0", "1", "2"]
    limits = {line[:26].strip(): line[26:].split()[0] for line in (process / "limits").read_text().splitlines()}
    assert limits["Max open files"] == "3"
    assert limits["Max file size"] == "0"
    assert limits["Max data size"] == str(rendering.MEMORY)


async def test_close_ends_the_child(make: Make) -> None:
    template = make("ok")
    await template.start()
    pid = child_of(template)
    await template.close()
    assert not alive(pid)
    await template.close()


@pytest.mark.parametrize("busy", [False, True])
def test_the_child_ends_with_its_parent(busy: bool) -> None:
    """The parent is killed and can close nothing itself; a busy child ends when its time is over."""
    program = (
        "import asyncio, sys\n"
        "from openmaas.processing.generation import ChatTemplate\n"
        "async def main():\n"
        "    template = ChatTemplate(sys.argv[1], {})\n"
        "    await template.start()\n"
        "    print(template._child.pid, flush=True)\n"
        "    await template.render([{'role': 'user', 'content': ''}])\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, LOOP if busy else "ok"], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        assert alive(pid)
        parent.kill()
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def test_the_child_imports_little() -> None:
    """Nothing of OpenMaaS, no numpy: it is there within a tenth of a second, of processor time that is counted here."""
    frames = rendering.order("ok") + rendering.conversation({}, HELLO)
    before = os.times()
    child = subprocess.run(rendering.COMMAND, input=frames, capture_output=True, env=rendering.child_environment(), check=True)
    spent = os.times()
    assert rendering.read(child.stdout[-len('{"text": "ok"}') :]).text == "ok"
    assert spent.children_user + spent.children_system - before.children_user - before.children_system < 0.4
    source = (Path(rendering.COMMAND[2])).read_text()
    assert "openmaas" not in source.split('"""', 2)[2]


# ── what a template can do ───────────────────────────────────────────────────────────────────────────────────────────

LLAMA = (
    "{% if tools %}{{ tools[0] | tojson }}{% endif %}{% for m in messages %}{% if 'tool_calls' in m %}"
    "{% set f = m.tool_calls[0].function %}"
    "{{ '{\"name\": \"' + f.name + '\", \"parameters\": ' }}{{ f.arguments | tojson }}{{ '}' }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}{% for m in messages %}{% if m.tool_calls %}"
    "{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}{% endfor %}"
    "[TOOL_CALLS][{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}]</s>"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
NEW_MISTRAL = MISTRAL.replace("[{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}]",
    "{% for c in m.tool_calls %}{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}")  # fmt: skip
XML = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{% for c in m.tool_calls or [] %}"
    "<tool_call>\n<function={{ c.function.name }}>\n</function>\n</tool_call>{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("text", "tools", "tool_format"),
    [
        (CHAT_TEMPLATE, True, "hermes"),
        (LLAMA, True, "llama3"),
        (MISTRAL, True, "mistral"),
        (NEW_MISTRAL, True, "mistral"),
        (XML, True, ""),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False, ""),
        ("{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[1].x.y if messages | length > 1 else '' }}", True, ""),
        ("{% if tools %}{{ raise_exception('no tools') }}{% endif %}", False, ""),
    ],
)  # fmt: skip
def test_what_a_template_can_do(text: str, tools: bool, tool_format: str) -> None:
    probe = probe_template(text, {"bos_token": "<s>"})
    assert (probe.renders, probe.tools, probe.tool_format, probe.problem) == (True, tools, tool_format, "")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{% if", "template_failed"),
        ("{{ raise_exception('no users here') }}", "template_refused"),
        (LOOP, "template_timeout"),
        ("{{ 'a' * 10 ** 10 }}", "template_memory"),
        ("{{ ''.__class__.mro() }}", "template_failed"),
    ],
)
def test_why_a_template_does_not_render(text: str, code: str) -> None:
    probe = probe_template(text, {})
    assert (probe.renders, probe.code) == (False, code)
    assert probe.problem
