"""Chat templates in the manner of well-known models: the same text and the same ids as apply_chat_template."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from jogak.codecs import chat
from jogak.errors import UserError

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

LLAMA3 = """\
{{- bos_token }}
{%- set ns = namespace(system=none, seen=0) %}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: tools\\n" }}{% endif %}
{{- "Year: " ~ strftime_now("%Y") ~ "\\n" }}
{%- if ns.system is not none %}{{- ns.system }}{% endif %}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- set ns.seen = ns.seen + 1 %}
    {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" }}
    {%- if message.tool_calls is defined %}
        {%- for call in message.tool_calls %}
            {{- call.function | tojson }}
        {%- endfor %}
    {%- elif message.content is mapping or message.content is sequence and message.content is not string %}
        {%- for part in message.content %}{% if part.type == "text" %}{{- part.text }}{% endif %}{% endfor %}
    {%- else %}
        {{- message.content | trim }}
    {%- endif %}
    {{- "<|eot_id|>" }}
{%- endfor %}
{%- if tools %}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- "\\n" }}{% endfor %}
{%- endif %}
{%- if add_generation_prompt %}{{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}{% endif %}
"""
CHATML = """\
{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
<|im_start|>system
You help.<|im_end|>
{% endif %}
{% if message.role == 'assistant' and message.reasoning_content is defined and enable_thinking %}
<|im_start|>assistant
<think>{{ message.reasoning_content }}</think>
{% generation %}{% set inner = message.content %}{{ inner }}<|im_end|>{% endgeneration %}
{{ inner is defined }}
{% else %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
MISTRAL = """\
{%- macro call(one) -%}
    {"name": "{{ one.function.name }}", "arguments": {{ one.function.arguments | tojson }}}
{%- endmacro -%}
{{ bos_token }}{% for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and tools %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {%- if message.tool_calls %}{% for one in message.tool_calls %}{{ call(one) }}{% endfor %}
        {%- else %}{{- ' ' + message['content'] + eos_token }}{% endif %}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
"""
GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{% if message.skip is defined %}{% continue %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{% for document in documents or [] %}{{ document.title | upper }}: {{ document['text'] }} {% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
{{ sep_token }}{{ boi_token }}{{ dict(a=1, b=[2])['b'] | tojson(separators=(',', ':')) }}
"""
STYLES = {"llama3": LLAMA3, "chatml": CHATML, "mistral": MISTRAL, "gemma": GEMMA}

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "서울", "days": 3, "exact": True}}}
TALKS = {
    "one": [{"role": "user", "content": '  안녕 <b>you</b> & "me"  '}],
    "answered": [
        {"role": "user", "content": "1 < 2?\n\n"},
        {"role": "assistant", "content": "Yes, 1 < 2. 👩‍👧"},
        {"role": "user", "content": "e\u0301 {{ 7 * 7 }} {% raw %}"},
    ],
    "system": [{"role": "system", "content": " Be short. "}, {"role": "user", "content": "Hi"}],
    "thought": [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So.", "thinking": "Hmm,\nwell."},
        {"role": "user", "content": "Ah", "skip": True},
    ],
    "tools": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
        {"role": "user", "content": "and?"},
    ],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}],
    "other": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "날씨 <now>", "parameters": {"type": "object", "properties": {}}},
}
SETTINGS = [
    {},
    {"add_generation_prompt": True},
    {"add_generation_prompt": True, "tools": [TOOL], "enable_thinking": True},
    {"documents": [{"title": "t", "text": "글"}], "enable_thinking": False},
]


@pytest.fixture(params=STYLES)
def theirs(request: pytest.FixtureRequest, tmp_path: Path):
    """Their tokenizer, saved with a template; its name_or_path is the folder."""
    characters = sorted({c for text in (*STYLES.values(), json.dumps(TALKS, ensure_ascii=False)) for c in text})
    made = Tokenizer(models.WordLevel({"<unk>": 0, **{c: i for i, c in enumerate(characters, 1)}}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token=transformers.AddedToken("</s>", lstrip=True),
        unk_token="<unk>",
        extra_special_tokens={"boi_token": "<image>"},
    )
    tokenizer.chat_template = STYLES[request.param]
    tokenizer.save_pretrained(tmp_path)
    return transformers.AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("talk", TALKS)
def test_the_same_text_and_ids(theirs, talk: str) -> None:
    refusals = 0
    folder = Path(theirs.name_or_path)
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for settings in SETTINGS:
        try:
            wanted = theirs.apply_chat_template(TALKS[talk], tokenize=False, **settings)
        except Exception:  # what a template refuses, or cannot do
            refusals += 1
            with pytest.raises(UserError) as told:
                chat.render(folder, TALKS[talk], **settings)
            assert "\n" not in str(told.value)
            continue
        found = chat.render(folder, TALKS[talk], **settings)
        assert found == wanted
        ids = theirs.apply_chat_template(TALKS[talk], **settings)["input_ids"]
        assert ours.encode(found, add_special_tokens=False).ids == ids
    assert refusals in (0, len(SETTINGS))
    assert refusals == 0 or talk in ("other", "parts", "system")


# ---------------------------------------------------------------- where templates lie


HI = [{"role": "user", "content": "hi"}]


def test_several_templates(tmp_path: Path) -> None:
    """By name; the one for tools where there are tools; the files' before the settings'."""
    listed = [{"name": n, "template": n + " {{ messages[0].content }}"} for n in ("default", "tool_use", "rag")]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    assert chat.render(tmp_path, HI) == "default hi"
    assert chat.render(tmp_path, HI, tools=[]) == "tool_use hi"
    assert chat.render(tmp_path, HI, template="rag") == "rag hi"
    with pytest.raises(UserError, match="has no chat template 'rac'; did you mean 'rag'"):
        chat.render(tmp_path, HI, template="rac")
    (tmp_path / "chat_template.jinja").write_text("file {{ messages[0].content }}")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/short.jinja").write_text("short")
    assert chat.render(tmp_path, HI) == "file hi"
    assert chat.render(tmp_path, HI, template="short") == "short"


def test_no_template(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the model has no chat template"):
        chat.render(tmp_path, HI)
    named = [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    with pytest.raises(UserError, match="several chat templates; name one of a, b"):
        chat.render(tmp_path, HI)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": [{"name": 3}]}))
    with pytest.raises(UserError, match="'chat_template' must be text, or a list of names and templates"):
        chat.render(tmp_path, HI)


# ---------------------------------------------------------------- templates that mean harm


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}{{ messages.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ namespace.__init__.__globals__['sys'] }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ dict.mro() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'] }}",
        "{{ self.__init__.__globals__ }}",
        "{{ ''|attr('__class__')|attr('__mro__') }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ range(1000000000) | list }}",
        "{{ 1 / 0 }}",
        "{% for x in %}",
        "{{ unfinished",
    ],
)
def test_templates_stay_in_their_sandbox(tmp_path: Path, template: str) -> None:
    """Refused, or nothing but empty text: never an object of Python's."""
    (tmp_path / "chat_template.jinja").write_text(template)
    given = [{"role": "user", "content": "hi"}]
    try:
        shown = chat.render(tmp_path, given)
    except UserError as error:
        said = str(error)
    else:
        said = f"the chat template 'default' shows: {shown.strip()}"
    assert "the chat template 'default' says: " in said or "fails on this conversation" in said or said[-2:] == ": "
    assert "\n" not in said
    assert given == HI


@pytest.mark.parametrize("content", [object(), Path("x"), b"x", {1, 2}, [object()], {"a": print}])
def test_conversations_are_plain_data(tmp_path: Path, content: object) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(UserError, match=r"messages\[0\]\.content.* a conversation is plain data"):
        chat.render(tmp_path, [{"role": "user", "content": content}])
    with pytest.raises(UserError, match="each must be a mapping with role and content, got str"):
        chat.render(tmp_path, ["hi"])  # pyright: ignore[reportArgumentType]
