"""Conversations: exact transcripts, tools and their errors, turns taken back, files."""

from __future__ import annotations

import asyncio
import json
import signal
import threading

import pytest
from pydantic import BaseModel
from worlds import CHATML, THINKING, Actor, make_tokenizer

from mlxlm.chat import ChatSession
from mlxlm.errors import GenerationError, MLXLMError, UsageError
from mlxlm.tools import ToolCall, format, result_message

CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "CET"}}\n</tool_call>'


def now(zone: str) -> str:
    """The time in a zone."""
    return f"noon in {zone}"


def session(script, template=CHATML, trims=True, model_type="actor", **options):
    tokenizer = make_tokenizer(template)
    model = Actor(tokenizer, script, trims=trims, model_type=model_type)
    return ChatSession(model, tokenizer, **options)


def whole(chat) -> str:
    """The conversation as the template writes it."""
    return chat.processor.apply_chat_template(chat.messages, tools=chat.toolkit.schemas, tokenize=False,
                                              add_generation_prompt=False)


# History

def test_each_turn_is_in_the_history():
    chat = session(["Hi there.", "Fine."], instructions="Be brief.")
    reply = chat.respond("Hello")
    assert reply == "Hi there." and reply.finish_reason == "stop" and reply.stats.generation_tokens == 10
    assert "".join(event.text for event in chat.stream("How are you?")) == "Fine."
    assert chat.messages == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi there."}, {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "Fine."}]


def test_reasoning_is_kept_apart_in_the_history():
    chat = session(["Hm.\n</think>\n\nYes.", "No.</think>It isn't."], THINKING, model_type="qwen3")
    assert (reply := chat.respond("Is it?")) == "Yes." and reply.reasoning == "Hm."
    assert chat.messages[-1] == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    assert chat.respond("Really?") == "It isn't."


def test_a_history_to_begin_with():
    said = [{"role": "system", "content": "S"}, {"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    chat = session(["-", "C"], history=said)
    assert chat.instructions == "S" and chat.messages == said
    assert chat.respond("And?") == "C"
    chat.instructions = None
    assert chat.messages[0]["role"] == "user"
    chat.clear()
    assert chat.messages == [] and chat.memory.nbytes == 0


def test_messages_in_other_forms():
    chat = session(["One.", "Two."])
    assert chat.respond({"role": "user", "content": "A"}) == "One."
    assert chat.respond([{"role": "user", "content": "B"}, {"role": "user", "content": "C"}]) == "Two."
    with pytest.raises(UsageError, match="nothing to answer"):
        session(["x"]).respond()
    with pytest.raises(UsageError, match="role"):
        chat.respond({"content": "A"})


def test_retry_undo_and_edit():
    chat = session(lambda prompt: "same")
    assert chat.respond("A") == "same"
    chat.model.script = lambda prompt: f"<{prompt.count('user')}>"
    assert chat.respond("B") == "<2>"
    chat.model.script = lambda prompt: "again"
    assert chat.retry() == "again" and [m["content"] for m in chat.messages] == ["A", "same", "B", "again"]
    assert [m["content"] for m in chat.undo()] == ["B", "again"]
    assert chat.edit("C") == "again" and [m["content"] for m in chat.messages] == ["C", "again"]
    chat.undo()
    for act in (chat.undo, chat.retry, lambda: chat.edit("x")):
        with pytest.raises(UsageError, match="hasn't said"):
            act()


# Tools

def test_a_tool_is_called_and_the_model_is_told():
    chat = session([f"I look. {CALL}", "It is noon."], tools=[now])
    events = list(chat.stream("What time is it?"))
    assert [r.content for event in events for r in event.results] == ["noon in CET"]
    assert [event.finish_reason for event in events if event.finish_reason] == ["tool_calls", "stop"]
    call = chat.messages[1]["tool_calls"][0]
    assert chat.messages == [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": "I look. ", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "name": "now", "content": "noon in CET"},
        {"role": "assistant", "content": "It is noon."}]
    assert call["function"] == {"name": "now", "arguments": {"zone": "CET"}}


def test_a_reply_has_the_last_answers_text_and_all_results():
    reply = session([f"I look. {CALL}{CALL}", "It is noon."], tools=[now]).respond("Time?")
    assert reply == "It is noon." and [r.value for r in reply.results] == ["noon in CET"] * 2
    assert reply.tool_calls == () and len(reply.rounds) == 2


async def later(zone: str) -> dict:
    """The time, in a while."""
    await asyncio.sleep(0)
    return {"hour": 12, "zone": zone}


def test_asynchronous_tools_are_waited_for():
    text = CALL.replace("now", "later")
    assert session([text, "Noon."], tools=[later]).respond("Time?").results[0].content == '{"hour": 12, "zone": "CET"}'

    async def within():
        chat = session([text, "Noon."], tools=[later])
        return chat.respond("Time?").results[0].value, (await chat.arespond("Time?")).finish_reason

    assert asyncio.run(within()) == ({"hour": 12, "zone": "CET"}, "stop")


def breaks(zone: str) -> str:
    """Always fails."""
    raise RuntimeError(f"no clock in {zone}")


@pytest.mark.parametrize(("call", "told"), [
    (CALL.replace("now", "breaks"), "RuntimeError: no clock in CET"),
    (CALL.replace("now", "later"), "there is no tool named 'later'; there are: now, breaks"),
    (CALL.replace('{"zone": "CET"}', "{}"), "wrong arguments: zone is missing"),
    (CALL.replace('"CET"', "5"), "wrong arguments: zone: integer where string was due"),
    (CALL.replace('"CET"', '"CET", "more": 1'), "wrong arguments: got an unexpected keyword argument 'more'"),
])
def test_what_goes_wrong_is_told_to_the_model(call, told):
    chat = session([call, "I see."], tools=[now, breaks])
    reply = chat.respond("Time?")
    assert reply == "I see." and [r.error for r in reply.results] == [True]
    assert json.loads(chat.messages[2]["content"]) == {"error": told}
    assert chat.messages[2]["tool_call_id"] == chat.messages[1]["tool_calls"][0]["id"] != ""


def test_a_call_that_cannot_be_read_is_asked_for_again():
    bad = '<tool_call>\n{"name": "now" "arguments"}\n</tool_call>'
    chat = session([bad, CALL, "Noon."], tools=[now])
    reply = chat.respond("Time?")
    assert reply == "Noon." and len(reply.results) == 1
    assert chat.messages[1]["content"] == bad and "malformed_syntax" in chat.messages[2]["content"]


def test_the_rounds_have_a_limit():
    chat = session(lambda prompt: CALL, tools=[now], max_tool_rounds=3)
    reply = chat.respond("Time?")
    assert len(reply.results) == 3 and reply.finish_reason == "tool_calls"
    assert [c.name for c in reply.tool_calls] == ["now"]
    assert [c.id for c in chat.pending] == [c.id for c in reply.tool_calls]


def test_a_call_that_is_required_is_required_once():
    chat = session(lambda prompt: "It is noon." if "noon in" in prompt else CALL, tools=[now])
    reply = chat.respond("Time?", tool_choice="required")
    assert reply == "It is noon." and len(reply.results) == 1
    assert session(lambda prompt: CALL, tools=[now]).respond("Time?", tool_choice="none") == CALL


def test_calls_of_one_id_in_two_rounds_are_told_apart():
    call = CALL.replace('{"name"', '{"id": "same", "name"')
    schema = {"type": "function", "function": {"name": "other", "parameters": {}}}
    chat = session([call, call.replace('"now"', '"other"')], tools=[now, schema])
    reply = chat.respond("Time?")
    assert [(c.name, c.id) for c in reply.tool_calls] == [("other", "same")] and len(reply.results) == 1
    assert [c.name for c in chat.pending] == ["other"]


def test_approval_is_asked_for_before_each_call():
    asked = []
    for answer, content in ((True, "noon in CET"), (False, '{"error": "the user declined this call"}'),
                            ("not today", '{"error": "not today"}')):
        chat = session([CALL, "So."], tools=[now], approve=lambda call, answer=answer: asked.append(call) or answer)
        assert chat.respond("Time?").results[0].content == content
    assert [(call.name, call.arguments) for call in asked] == [("now", {"zone": "CET"})] * 3

    async def ask(call):
        return False

    assert session([CALL, "So."], tools=[now], approve=ask).respond("Time?").results[0].error


def test_a_schema_leaves_its_calls_to_the_caller():
    schema = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    chat = session([CALL, "Noon."], tools=[schema])
    reply = chat.respond("Time?")
    assert reply == "" and reply.finish_reason == "tool_calls"
    [call] = reply.tool_calls
    assert (call.name, call.arguments) == ("now", {"zone": "CET"}) and chat.pending == (call,)
    with pytest.raises(UsageError, match="no such call"):
        chat.add_result("other", "x")
    chat.add_result(call, {"hour": 12})
    assert chat.messages[-1] == result_message(call, {"hour": 12}) and chat.pending == ()
    assert chat.respond() == "Noon."


class Clock(BaseModel):
    """The time."""

    zone: str


def test_a_pydantic_model_is_a_schema_and_may_have_a_function():
    text = CALL.replace("now", "Clock")
    assert session([text, "Noon."], tools=[Clock]).respond("Time?").tool_calls[0].name == "Clock"
    reply = session([text, "Noon."], tools=[Clock], functions={"Clock": now}).respond("Time?")
    assert reply == "Noon." and reply.results[0].value == "noon in CET"


def made(clock: Clock) -> str:
    """Takes a model."""
    return clock.zone


def test_arguments_become_what_the_function_asks_for():
    text = '<tool_call>\n{"name": "made", "arguments": {"clock": {"zone": "CET"}}}\n</tool_call>'
    assert session([text, "So."], tools=[made]).respond("Time?").results[0].content == "CET"


def test_tools_that_are_none():
    for tools, functions in (([now, now], None), ([5], None), ("now", None), ([now], {"other": now})):
        with pytest.raises(UsageError):
            session(["x"], tools=tools, functions=functions)
    with pytest.raises(GenerationError, match="own"):
        session(["x"], cache=[]).respond("Hi")
    with pytest.raises(GenerationError, match="unknown argument"):
        session(["x"], max_token=5)


# Turns that are taken back

def test_a_turn_that_fails_leaves_no_trace():
    chat = session(["One.", "Two."])
    chat.respond("A")
    before = chat.messages

    def fail():
        raise ValueError("broken")

    chat.model.before_step = fail
    with pytest.raises(ValueError, match="broken"):
        chat.respond("B")
    assert chat.messages == before
    chat.model.before_step = lambda: None
    assert chat.respond("B") == "Two."
    with pytest.raises(GenerationError):
        chat.respond("C", temperature="warm")
    assert len(chat.messages) == 4


@pytest.mark.parametrize("keep", [False, True])
def test_a_turn_that_is_stopped(keep):
    chat = session(["One.", "A long answer.", "Three."])
    chat.respond("A")
    stream = chat.stream("B", keep_partial=keep)
    assert [next(stream).text for _ in range(3)] == ["A", " ", "l"]
    with pytest.raises(UsageError, match="still under way"):
        chat.respond("C")
    stream.close()
    assert [m["content"] for m in chat.messages] == (["A", "One.", "B", "A l"] if keep else ["A", "One."])
    stop = threading.Event()
    stop.set()
    assert chat.respond("B", cancel=stop).finish_reason == "cancelled" and len(chat.messages) == 2 + 2 * keep


@pytest.mark.parametrize("keep", [False, True])
def test_ctrl_c_in_the_middle_of_an_answer(keep):
    chat = session(["One.", "A long answer."])
    chat.respond("A")
    stream = chat.stream("B", keep_partial=keep)
    said = [next(stream).text, next(stream).text]
    chat.model.before_step = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        said += [event.text for event in stream]
    chat.model.before_step = lambda: None
    kept = [m["content"] for m in chat.messages[2:]]
    assert kept == (["B", "A l"] if keep else [])
    assert whole_cache_is_a_beginning(chat)
    if not keep:
        assert chat.respond("B") == "A long answer."


def whole_cache_is_a_beginning(chat) -> bool:
    """Whether the ids that the memory believes to be in the cache are those that are in it."""
    return chat.memory.keys == chat.memory.cache[0].ids


def test_an_empty_answer_leaves_no_trace():
    chat = session([""])
    assert chat.respond("A") == "" and chat.messages == []


def test_retry_and_edit_as_streams():
    chat = session(lambda prompt: "x" * 50)
    chat.respond("A")
    for stream, question in ((chat.stream_retry, "A"), (lambda **more: chat.stream_edit("B", **more), "B")):
        assert "".join(event.text for event in stream()) == "x" * 50
        assert [m["content"] for m in chat.messages] == [question, "x" * 50]
        stopped = stream()
        next(stopped)
        stopped.close()  # what was there comes back
        assert [m["content"] for m in chat.messages] == [question, "x" * 50]
        kept = stream(keep_partial=True)
        next(kept)
        kept.close()
        assert [m["content"] for m in chat.messages] == [question, "x"]
        chat.retry()
    chat.clear()
    with pytest.raises(UsageError, match="hasn't said anything"):
        chat.stream_retry()


def test_a_failing_retry_keeps_the_answer_that_was_there():
    chat = session(["One."])
    chat.respond("A")
    for act in (lambda: chat.retry(top_k="x"), lambda: chat.edit("B", top_k="x")):
        with pytest.raises(MLXLMError):
            act()
        assert [m["content"] for m in chat.messages] == ["A", "One."]


def test_a_tool_cannot_start_a_turn_of_its_own():
    def nested(zone: str) -> str:
        return chat.respond("Inner")

    chat = session([CALL.replace("now", "nested"), "So."], tools=[nested])
    assert "still under way" in chat.respond("Time?").results[0].content


# Asynchronous forms

def test_events_arrive_in_the_callers_loop():
    async def talk():
        chat = session([f"{CALL}", "Noon, I think."], tools=[now])
        own = threading.get_ident()
        texts = []
        async for event in chat.astream("Time?"):
            assert threading.get_ident() == own
            texts.append(event.text)
        return "".join(texts), [m["role"] for m in chat.messages]

    assert asyncio.run(talk()) == ("Noon, I think.", ["user", "assistant", "tool", "assistant"])


def test_leaving_early_ends_the_turn():
    async def talk():
        chat = session(["A long answer."])
        stream = chat.astream("A")
        async for _ in stream:
            break
        await stream.aclose()
        task = asyncio.create_task(chat.arespond("A"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = chat.messages
        return left, await chat.arespond("A")

    assert asyncio.run(talk()) == ([], "A long answer.")


def test_errors_come_to_who_awaits():
    async def talk():
        chat = session(["A"])
        with pytest.raises(GenerationError):
            await chat.arespond("A", top_k="x")
        return chat.messages

    assert asyncio.run(talk()) == []


# Files

def test_a_conversation_is_saved_and_goes_on(tmp_path):
    chat = session([CALL, "Noon.", "Yes."], tools=[now], instructions="Be brief.")
    chat.respond("Time?")
    chat.save(tmp_path / "chat.json")
    again = ChatSession.load(tmp_path / "chat.json", chat.model, chat.processor, tools=[now])
    assert again.messages == chat.messages and again.instructions == "Be brief."
    assert again.respond("Sure?") == chat.respond("Sure?") == "Yes."
    assert whole(again) == whole(chat)
    assert [path.name for path in tmp_path.iterdir()] == ["chat.json"]


def test_attached_images_are_saved_with_the_message(tmp_path):
    from PIL import Image

    chat = session(["x"])
    said = chat._said("Look", ["a.png", Image.new("RGB", (2, 2))], None)
    chat._history = said
    chat.save(tmp_path / "chat.json")
    again = ChatSession.load(tmp_path / "chat.json", chat.model, chat.processor)
    first, second, text = again._history[0]["content"]
    assert first["image"].value == "a.png" and second["image"].value.startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "Look"}


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"format": "mlxlm-chat", "version": 9, "messages": []}',
                                  '{"format": "mlxlm-chat", "version": 1}', '{"format": "mlxlm-chat", "version": 1, '
                                  '"messages": [5]}', '{"format": "mlxlm-chat", "version": 1, "messages": [], '
                                  '"instructions": 5}'])
def test_files_that_are_no_conversation(tmp_path, text):
    (tmp_path / "chat.json").write_text(text)
    chat = session(["x"])
    with pytest.raises(MLXLMError):
        ChatSession.load(tmp_path / "chat.json", chat.model, chat.processor)
    with pytest.raises(MLXLMError):
        ChatSession.load(tmp_path / "none.json", chat.model, chat.processor)
    with pytest.raises(MLXLMError):
        chat.save(tmp_path / "no" / "chat.json")


def test_the_wire_text_of_a_call_comes_back():
    """What the model wrote is what the history makes the template write, so that the cache stays in step."""
    assert format([ToolCall("now", {"zone": "CET"})], "json") == CALL
