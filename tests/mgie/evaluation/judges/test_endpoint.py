"""An endpoint is asked as published programs ask it, and waited for; its key is shown nowhere."""

import base64
import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from judged_data import png, three, write_imgedit

from mgie.cli import main
from mgie.errors import ConfigError, DeviceError
from mgie.evaluation.judges.base import Ask, Picture
from mgie.evaluation.judges.endpoint import Endpoint
from mgie.evaluation.judges.kinds import JudgeOptions, open_judge

KEY = "sk-secret-0123456789abcdef"


def good(text="Score: 3", **more):
    message = {"role": "assistant", "content": text}
    whole = {
        "model": "judge-2024",
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"total_tokens": 7},
    }
    return 200, json.dumps(whole | more)


class Stub:
    """What a server answers, one after the other and the last for ever, and what it was asked."""

    def __init__(self, *replies, wait=0.0):
        self.replies, self.wait, self.asked, self.held = list(replies), wait, [], threading.Lock()

    def __call__(self, path, headers, body):
        with self.held:
            self.asked.append((path, dict(headers), json.loads(body)))
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        time.sleep(self.wait)
        return reply


@contextmanager
def serving(stub):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, text, *more = stub(self.path, self.headers, body)
            data = text.encode()
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(OSError):  # the other side did not wait
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def asked(monkeypatch):
    """Takes a server's replies; gives what came back, the server, and how long was waited."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    waited = []

    def run(*replies, wait=0.0, **options):
        stub = Stub(*replies, wait=wait)
        with serving(stub) as url:
            judge = Endpoint(url, "judge-x", key_env="JUDGE_KEY", sleep=waited.append, **options)
            shown = Picture(data=png(1), detail="high")
            ask = Ask(parts=("look", shown), system="be fair", settings={"max_tokens": 5})
            return judge.answer(ask, "0"), stub, waited

    run.waited = waited
    return run


def test_a_question_has_the_form_of_the_interface(asked):
    answer, stub, waited = asked(good())
    assert (answer.text, answer.status, answer.model) == ("Score: 3", "ok", "judge-2024")
    assert answer.usage == {"total_tokens": 7} and answer.finish == "stop" and waited == []
    ((path, headers, body),) = stub.asked
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "judge-x" and body["max_tokens"] == 5
    system, user = body["messages"]
    assert system == {"role": "system", "content": "be fair"}
    text, picture = user["content"]
    assert text == {"type": "text", "text": "look"} and picture["image_url"]["detail"] == "high"
    assert picture["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(png(1)).decode()}"


@pytest.mark.parametrize(
    "bad",
    [(429, "{}"), (500, "oops"), (503, ""), (200, "{"), (200, '{"choices": []}'), (200, "[1]"), (200, '"x"')],
)
def test_what_may_pass_is_tried_again(asked, bad):
    answer, stub, waited = asked(bad, bad, good())
    assert answer.text == "Score: 3" and len(stub.asked) == 3
    assert 1 <= waited[0] <= 2 and 2 <= waited[1] <= 4


def test_an_endpoint_is_left_alone_as_long_as_it_asks(asked):
    _, _, waited = asked((429, "{}", {"Retry-After": "30"}), (429, "", {"Retry-After": "99999"}), good())
    assert waited == [30, 120]


def test_what_goes_on_failing_is_one_sentence(asked):
    with pytest.raises(
        DeviceError, match=r"^the endpoint at 127.0.0.1:\d+ failed 3 times \(status 500: no\).*kept"
    ):
        asked((500, '{"error": {"message": "no"}}'), tries=3)


def test_a_slow_endpoint_is_not_waited_for(asked):
    with pytest.raises(DeviceError, match="failed 2 times \\(no answer in time\\)"):
        asked(good(), wait=0.5, timeout=0.1, tries=2)


def test_a_dead_host_is_one_sentence():
    judge = Endpoint("http://127.0.0.1:9/v1", "m", tries=2, sleep=lambda _: None)
    with pytest.raises(
        DeviceError, match=r"the endpoint at 127.0.0.1:9 failed 2 times \(Connection refused\)"
    ):
        judge.answer(Ask(parts=("x",)), "0")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_one_sentence_without_it(asked, status):
    with pytest.raises(DeviceError) as caught:
        asked((status, json.dumps({"error": {"message": f"bad key {KEY[:9]}***{KEY[-4:]}"}})))
    assert "refused the key" in str(caught.value) and KEY[:9] not in str(caught.value)
    assert asked.waited == []


@pytest.mark.parametrize("status", [301, 302, 307, 404])
def test_a_redirection_is_not_followed(asked, status):
    with pytest.raises(DeviceError, match="check the URL and --judge_model"):
        asked((status, "", {"Location": "http://127.0.0.1:9/elsewhere"}))


@pytest.mark.parametrize(
    "reply",
    [
        (400, '{"error": {"code": "content_filter", "message": "no people"}}'),
        (
            200,
            '{"choices": [{"message": {"content": null, "refusal": "I will not"}, "finish_reason": "stop"}]}',
        ),
        (200, '{"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}'),
    ],
)
def test_a_refusal_is_no_answer(asked, reply):
    answer, stub, _ = asked(reply)
    assert answer.status == "refused" and len(stub.asked) == 1


def test_what_is_wrong_with_one_question_is_said_of_it(asked):
    answer, _, _ = asked((413, '{"error": {"message": "too large"}}'))
    assert (answer.status, answer.text) == ("error", "status 413: too large")


def test_a_key_that_is_echoed_is_blotted_out(asked):
    answer, _, _ = asked(good(f"your key is {KEY}", model=KEY))
    assert answer.text == "your key is (key)" and answer.model == "(key)"


def test_an_endless_answer_is_refused(asked, monkeypatch):
    monkeypatch.setattr("mgie.evaluation.judges.endpoint.MOST", 1000)
    with pytest.raises(DeviceError, match="longer than 1000 bytes"):
        asked(good("x" * 5000), tries=1)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://user:pass@host/v1", "holds a user, a password or parameters"),
        ("https://host/v1?key=abc", "holds a user, a password or parameters"),
        ("ftp://host/v1", "is no URL of a judge"),
        ("https:///v1", "is no URL of a judge"),
        ("https://host:port/v1", "cannot be read"),
    ],
)
def test_urls(url, says):
    with pytest.raises(ConfigError, match=says) as caught:
        Endpoint(url, "m")
    assert "pass" not in str(caught.value).replace("a password", "") and "abc" not in str(caught.value)


def test_a_key_does_not_travel_readable(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with pytest.raises(ConfigError, match="use https"):
        Endpoint("http://example.org/v1", "m", key_env="JUDGE_KEY")
    assert Endpoint("https://example.org/v1/chat/completions", "m", key_env="JUDGE_KEY").url.endswith(
        "org/v1"
    )


@pytest.mark.parametrize("value", ["", " ", f"{KEY} {KEY}", f"{KEY}\n{KEY}", f"{KEY}ü"])
def test_a_key_that_is_none_is_refused_without_being_shown(monkeypatch, value):
    monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ConfigError) as caught:
        Endpoint("https://example.org/v1", "m", key_env="JUDGE_KEY")
    assert KEY not in str(caught.value)
    with pytest.raises(ConfigError) as caught:  # the key itself where its variable's name belongs
        Endpoint("https://example.org/v1", "m", key_env=KEY)
    assert KEY not in str(caught.value)


def test_which_judge_is_meant():
    import torch

    for name in ("http:https://host/v1", "https://host/v1"):
        judge = open_judge(JudgeOptions(judge=name, model="m"), torch.device("cpu"), torch.float32)
        assert judge.identity == {"kind": "endpoint", "url": "https://host/v1", "model": "m"}
    with pytest.raises(ConfigError, match="needs the name of a model"):
        open_judge(JudgeOptions(judge="https://host/v1"), torch.device("cpu"), torch.float32)


@pytest.fixture
def command(tmp_path, monkeypatch):
    write_imgedit(tmp_path, 6)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    words = (
        f"evaluate --model pictures:{tmp_path}/gen --suite imgedit --data {tmp_path}/data --unpinned --json"
    )
    words += f" --out {tmp_path}/report --judge_model judge-x --judge_key_env JUDGE_KEY --judge_controls 2"
    return lambda url, *more: main([*words.split(), "--judge", url, *more])


def test_the_key_is_in_no_file_and_no_message(command, tmp_path, capsys):
    """By a server that echoes it wherever it can."""
    with serving(Stub((429, KEY), good(f"{KEY}\n{three(4)}", model=f"judge {KEY}"))) as url:
        assert command(url) == 0
    shown = capsys.readouterr()
    facts = json.loads(shown.out.splitlines()[-1])
    assert facts["rows"]["outputs"]["numbers"]["following_mean"] == 4
    assert "pictures and words are sent to 127.0.0.1:" in shown.err
    assert KEY not in shown.out + shown.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "report.answers.jsonl" in files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_run_that_an_endpoint_ended_goes_on(command, tmp_path, capsys):
    with serving(Stub(good(three(4)), good(three(4)), good(three(4)), (401, "{}"))) as url:
        assert command(url) == 2
        assert "refused the key" in capsys.readouterr().err
        kept = len((tmp_path / "report.answers.jsonl").read_text().splitlines())
        assert kept == 3 and not (tmp_path / "report").exists()
    port = url.split(":")[2].split("/")[0]
    assert port  # another port is another judge, so the answers are asked for anew
    stub = Stub(good(three(4)))
    with serving(stub) as url:
        assert command(url) == 0
        made = len(stub.asked)
        assert command(url) == 0 and len(stub.asked) == made


def test_questions_that_are_wrong_as_such_end_a_run(command, capsys):
    with serving(Stub((400, '{"error": {"message": "no pictures here"}}'))) as url:
        assert command(url) == 2
    assert "refused 3 questions in a row (status 400: no pictures here)" in capsys.readouterr().err


def test_answers_of_another_model_are_told_of(command, tmp_path, capsys):
    with serving(Stub(good(three(4)), good(three(4), model="judge-2025"))) as url:
        assert command(url, "--judge_controls", "0") == 0
    assert "several models: judge-2024 (1), judge-2025 (5)" in (tmp_path / "report" / "report.md").read_text()
    capsys.readouterr()
