"""support/page.py: what the page of an evaluation holds and shows, in a browser where there is one.
"""
import hashlib
import json
import re
import shutil
import subprocess
from base64 import b64decode
from html.parser import HTMLParser

import pytest
import requests
from test_infer import assert_refused, few, run
from test_scheduling import random_base

import infer
import lorid
from support import page
from support.engine import Outcome

STORM = ["<script>window.hit = 1</script>", "</script><script>window.hit = 1</script>", "<!--",
         "<!--<script>", "]]>", "<img src=x onerror='window.hit = 1'>", "&lt;b&gt; &amp;", "DATA",
         "'HASH'", "__proto__", "${window.hit = 1}", "\\u003c/script>",
         "\u2028window.hit = 1\u2029",
         "\u202eevil\u202c", "\x00\x07\x1b[31m\x7f\x9b", "\ud800", "é 数 🙂", "a\r\nb\x0cc\x85d\te",
         "word " * 2000, "w" * 10_000]


def held(*pairs, knowledge="A rule."):
    """The outcome of a vote whose rounds state these pairs of answers, None nothing."""
    texts = []
    for a, b in pairs:
        texts += ["mumble" if a is None else f"I say\n--> {a} END", knowledge,
                  "" if b is None else f"It is\n--> {b} END"]
    verdict = lorid.replay(lorid.vote("Q?", len(pairs)), texts)
    return Outcome(verdict, [9] * len(texts), [False] * len(texts))


def hostile(text):
    """A vote about whose every text this is part."""
    return {"question": f"Q {text}?", "answer": text}, held((text, "5"), (f"{text}!", text),
                                                            knowledge=text)


ROWS = [{"question": "Ann has 3 pens. Apples?", "answer": "3"},
        {"question": "Ben has 4 pens. Jackfruits?", "answer": "$4"},
        {"question": "Cleo has 5 pens. Cherries?", "answer": "5"},
        {"question": "Dora has 6 pens. Dates?", "answer": "6"}]
OUTCOMES = [held((3, "3.0")),                          # right
            held((4, 5), (6, 7), (8, "4.00")),         # right, agreed over two rounds
            held((5, 4), (4, 4)),                      # wrong
            held((6, 7), (6, 8), (None, None))]        # never agreed, right unless strict
TABLE = infer.table([infer.summary("LoRID", ROWS, OUTCOMES, seconds=3)])


class Reader(HTMLParser):
    """Notes the tags, the attributes, and what stands in script elements."""
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.open = [], [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.open = tag == "script"
        if self.open:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.tags.append("/" + tag)
        self.open = False

    def handle_data(self, text):
        if self.open:
            self.scripts[-1] += text


def written(path, rows=ROWS, outcomes=OUTCOMES, strict=False):
    page.write_page(path, TABLE, "questions 4, strict False", rows, outcomes, strict)
    text = path.read_bytes().decode()
    return text, json.loads(Reader(text).scripts[0])


# --------------------------------------------------------------------------------------------------
# The file


def test_the_page_holds_the_votes(tmp_path):
    """By hand: what is right, what each text states, which were given by both, gold ones."""
    data = written(tmp_path / "a.html")[1]
    assert data["head"] == TABLE.splitlines()[0].strip("| ").split(" | ")
    assert data["lines"][0][:2] == ["LoRID", "75.0%"]
    assert [(q["right"], q["agreed"], q["answer"]) for q in data["questions"]] == [
        (True, True, "3"), (True, True, "4"), (False, True, "4"), (True, False, "6")]
    assert written(tmp_path / "a.html", strict=True)[1]["questions"][3]["right"] is False
    second = data["questions"][1]
    assert (second["question"], second["gold"]) == ("Ben has 4 pens. Jackfruits?", "$4")
    assert second["stated"] == [
        {"text": "4", "agreed": True, "gold": True}, {"text": "5", "agreed": False, "gold": False},
        {"text": "6", "agreed": False, "gold": False},
        {"text": "7", "agreed": False, "gold": False},
        {"text": "8", "agreed": False, "gold": False}]
    assert second["rounds"][2] == [["I say\n--> 8 END", 4, ""], ["A rule.", None, ""],
                                   ["It is\n--> 4.00 END", 0, ""]]
    assert data["questions"][3]["rounds"][2] == [["mumble", None, ""], ["A rule.", None, ""],
                                                 ["", None, ""]]


def test_zero_is_an_answer_and_knowledge_states_none(tmp_path):
    rows, outcome = [{"question": "Q?", "answer": "0"}], held((0, 1), knowledge="--> 0 END")
    [question] = written(tmp_path / "a.html", rows, [outcome])[1]["questions"]
    assert [stated for _, stated, _ in question["rounds"][0]] == [0, None, 1]


def test_texts_that_were_cut_short_are_marked(tmp_path):
    outcome = held((3, 4))
    outcome.tokens, outcome.truncated = [9, 0, 9], [True, True, False]
    [question] = written(tmp_path / "a.html", ROWS[:1], [outcome])[1]["questions"]
    assert [note for *_, note in question["rounds"][0]] == ["cut short", "no room", ""]


def safe(text):
    """Line breaks as \\n, tabs as spaces, and what is not printable as Python spells it."""
    lines = re.split("\r\n|[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", text.expandtabs(4))
    lines = lines[:-1] if text and not lines[-1] else lines
    return "\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
                     for line in lines)


@pytest.mark.parametrize("text", STORM, ids=range(len(STORM)))
def test_texts_stay_data(tmp_path, text):
    """The page has the elements of an empty one, its JSON the texts, harmless for a reader."""
    plain = Reader(written(tmp_path / "a.html", [], [])[0])
    row, outcome = hostile(text)
    shown, data = written(tmp_path / "b.html", [row], [outcome])
    found = Reader(shown)
    assert found.tags == plain.tags and found.attributes == plain.attributes
    assert found.scripts[1] == plain.scripts[1]
    [question] = data["questions"]
    assert question["rounds"][0][1][0] == safe(text)
    assert question["question"] == safe(row["question"])
    assert all(c.isprintable() or c == "\n" for c in json.dumps(question, ensure_ascii=False))


def test_the_page_asks_nothing_of_the_network(tmp_path):
    """No address in it, nothing that loads; its policy allows its own script alone, by hash."""
    text = written(tmp_path / "a.html")[0]
    assert not re.search(r"https?:|//\w|url\(|@import|innerHTML|\beval\b|fetch|import\(", text)
    found = Reader(text)
    assert not {"link", "img", "iframe", "object", "base", "form"} & set(found.tags)
    assert not [a for a in found.attributes if a[1] in ("src", "href") or a[1].startswith("on")]
    [policy] = [value for tag, name, value in found.attributes if "default-src" in (value or "")]
    rules = dict(part.split(maxsplit=1) for part in policy.split(";"))
    assert rules["default-src"] == "'none'"
    digest = re.fullmatch("'sha256-(.*)'", rules["script-src"])[1]
    assert b64decode(digest) == hashlib.sha256(found.scripts[1].encode()).digest()


# --------------------------------------------------------------------------------------------------
# The command


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return random_base(tmp_path_factory.mktemp("page") / "base")


def test_the_command_writes_the_votes_of_its_table(base, tmp_path):
    file = tmp_path / "new" / "page.html"
    done = run(*few(base, "--html", file))
    assert done.returncode == 0, done.stderr
    data = json.loads(Reader(file.read_text()).scripts[0])
    printed = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    assert data["head"] == printed[0] and data["lines"] == printed[2:5]
    assert data["settings"] == done.stdout.splitlines()[-1]
    right = sum(q["right"] for q in data["questions"]) / len(data["questions"])
    assert f"{right:.1%}" == data["lines"][2][1]
    texts = sum(len(q["rounds"]) for q in data["questions"]) * 3 / len(data["questions"])
    assert f"{texts:.2f}" == data["lines"][2][4]


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(infer, "load", lambda args: pytest.fail("began to work"))
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "a.html"):
        assert_refused(run("--html", path), f"--html {path} ")
    same = tmp_path / "a.html"
    assert_refused(run("--json", same, "--html", same), f"--html {same} would overwrite")
    assert run("--html", "").returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_html_and_ask_are_refused_together(tmp_path):
    done = run("--html", tmp_path / "a.html", "--ask", "What is 1+1?")
    assert done.returncode == 2 and "--ask takes one question" in done.stderr.splitlines()[-1]


# --------------------------------------------------------------------------------------------------
# In a browser


NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
         "disable-background-networking", "disable-component-update", "disable-sync",
         "disable-dev-shm-usage")
KEYS = {"Escape": "\ue00c", "ArrowUp": "\ue013", "ArrowDown": "\ue015", "Tab": "\ue004",
        "Enter": "\ue007"}


def programs():
    """(Chromium, chromedriver), None where one is absent."""
    return next(filter(None, map(shutil.which, NAMES)), None), shutil.which("chromedriver")


class Browser:
    """One window of a fresh Chromium, whose profile is that folder, driven through chromedriver by
    plain HTTP (https://www.w3.org/TR/webdriver/)."""

    def __init__(self, profile):
        binary, driver = programs()
        self.driver = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        ready = next(line for line in self.driver.stdout if "success" in line)
        self.http = requests.Session()
        self.http.trust_env = False  # no proxy
        self.url = f"http://127.0.0.1:{re.search('port ([0-9]+)', ready)[1]}/session"
        options = {"binary": binary, "args": [*(f"--{flag}" for flag in FLAGS),
                                              f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options,
                  "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        made = self.post("", capabilities={"alwaysMatch": wanted})
        self.url += f"/{made['sessionId']}"

    def answer(self, reply):
        value = reply.json()["value"]
        assert reply.ok, value
        return value

    def post(self, path, **what):
        return self.answer(self.http.post(self.url + path, json=what, timeout=60))

    def cdp(self, command, **parameters):
        return self.post("/goog/cdp/execute", cmd=command, params=parameters)

    def window(self, width, height, scheme="light"):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.cdp("Emulation.setEmulatedMedia", features=features)

    def open(self, url):
        self.post("/url", url=url)

    def js(self, script, *words):
        """What `return ...` in a script returns."""
        return self.post("/execute/sync", script=script, args=words)

    def press(self, *keys):
        actions = [{"type": kind, "value": KEYS.get(key, key)}
                   for key in keys for kind in ("keyDown", "keyUp")]
        self.post("/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def log(self, kind):
        return self.post("/se/log", type=kind)

    def quit(self):
        self.http.delete(self.url, timeout=60)
        self.driver.terminate()
        self.driver.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if None in programs():
        pytest.skip("needs Chromium and chromedriver on the PATH: apt install chromium-driver")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


SEEN = "return [...document.querySelectorAll('#list li:not([hidden])')].map(li => li.textContent)"
TITLE = "return document.querySelector('#view h2').innerText"


def numbers(browser):
    return [int(re.match("[0-9]+", text)[0]) for text in browser.js(SEEN)]


def current(browser):
    return int(re.search("Question ([0-9]+)", browser.js(TITLE))[1])


def test_filters_search_and_keys(browser, tmp_path):
    """As somebody uses them who has no mouse."""
    written(tmp_path / "a.html")
    browser.window(1280, 900)
    browser.open((tmp_path / "a.html").as_uri())
    assert numbers(browser) == [1, 2, 3, 4] and current(browser) == 1
    pressed = "return [...document.querySelectorAll('[aria-pressed=true]')].map(b => b.innerText)"
    assert browser.js(pressed) == ["All (4)"]
    labels = browser.js("return [...document.querySelectorAll('#filters *')].map(b => b.innerText)")
    assert labels == ["All (4)", "Right (3)", "Wrong (1)", "Never agreed (1)"]
    browser.js("document.querySelector('#filters button').focus()")
    browser.press("Tab", "Tab", "Enter")
    assert browser.js(pressed) == ["Wrong (1)"]
    assert numbers(browser) == [3] and current(browser) == 3
    style = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.js(style) == "solid"
    browser.press("Tab", "Enter")
    assert numbers(browser) == [4] and current(browser) == 4
    browser.press("j", "k", "j")  # there is no other
    assert current(browser) == 4
    browser.js("document.querySelector('#filters button').click()")

    browser.press("/", *"jackf")  # letters, not commands
    assert browser.js("return document.activeElement.id") == "search"
    assert browser.js("return document.getElementById('search').value") == "jackf"
    assert numbers(browser) == [2] and current(browser) == 2
    browser.js("s = document.getElementById('search'); s.value = '--> 8 END'; s.oninput()")
    assert numbers(browser) == [2, 4]  # in their texts
    browser.press("ArrowDown")
    assert current(browser) == 4
    browser.js("s = document.getElementById('search'); s.value = 'nowhere'; s.oninput()")
    assert numbers(browser) == []
    assert browser.js("return document.getElementById('count').innerText") == "0 of 4 shown"
    browser.js("s = document.getElementById('search'); s.value = ''; s.oninput()")
    browser.press("Escape")
    assert browser.js("return document.activeElement.id") == ""

    browser.js("""document.body.dispatchEvent(
        new KeyboardEvent("keydown", {key: "k", ctrlKey: true, bubbles: true}))""")
    assert current(browser) == 4  # that was for the browser
    browser.press("k")
    assert current(browser) == 3
    browser.js("document.querySelector('[aria-current=true]').focus()")
    browser.press("ArrowUp", "ArrowUp", "ArrowUp", "j")
    assert current(browser) == 2
    assert browser.js("return document.activeElement.getAttribute('aria-current')") == "true"
    assert browser.js("return location.hash") == "#2"
    browser.open((tmp_path / "a.html").as_uri() + "?again#3")
    assert current(browser) == 3 and browser.js("return scrollY") == 0
    assert not browser.log("browser")


def test_a_vote_is_marked(browser, tmp_path):
    written(tmp_path / "a.html")
    browser.open((tmp_path / "a.html").as_uri() + "#2")
    titles = "return [...document.querySelectorAll('.round h3')].map(h => h.innerText)"
    assert browser.js(titles) == ["Round 1", "Round 2", "Round 3 agreed"]
    texts = "return [...document.querySelectorAll('.round:last-child > div')].map(d => d.innerText)"
    assert [text.split("\n")[0] for text in browser.js(texts)] == [
        role.title for role in lorid.ROLES.values()]
    chips = ("return [...document.querySelectorAll('.round > div')].map("
             "d => [...d.querySelectorAll('.chip')].map(c => c.innerText))")
    both = ["states 4", "✓ right", "given by both"]
    assert browser.js(chips) == [both, [], ["states 5", "✗ wrong"], ["states 6", "✗ wrong"], [],
                                 ["states 7", "✗ wrong"], ["states 8", "✗ wrong"], [], both]
    rows = "return [...document.querySelectorAll('#tally tr')].map(r => r.innerText)"
    assert browser.js(rows)[:3] == ["stated\tIR\tDR\t", "4\t1\t1\t✓ rightgiven by both",
                                    "5\t0\t1\t"]
    top = "return [...document.querySelectorAll('.round:first-child > *')].map(e => e.offsetTop)"
    assert browser.js(top) == browser.js(top.replace("first", "last"))  # roles stand side by side


@pytest.mark.parametrize("width, scheme", [(390, "dark"), (1280, "light")])
def test_hostile_texts_do_nothing_and_fit(browser, tmp_path, width, scheme):
    """No script of theirs runs, nothing is loaded, and the page never scrolls sideways; each text
    is there as text."""
    rows, outcomes = zip(*map(hostile, STORM), strict=True)
    written(tmp_path / "a.html", rows, outcomes)
    browser.window(width, 844, scheme)
    browser.log("performance")
    browser.open((tmp_path / "a.html").as_uri())
    dark = browser.js("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall("[0-9]+", dark))) < 200) == (scheme == "dark")
    for i, row in enumerate(rows):
        number, wide, hit, question = browser.js("""
            return [current + 1, document.documentElement.scrollWidth - innerWidth, window.hit,
                    document.getElementById("question").textContent]""")
        assert (number, hit, question) == (i + 1, None, safe(row["question"])) and wide <= 0
        browser.press("j")
    requests = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    asked = [r["params"]["request"]["url"] for r in requests
             if r["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith("file:///") and "a.html" in url for url in asked)
    assert not browser.log("browser")


@pytest.mark.slow
def test_a_large_evaluation_is_quick(browser, tmp_path):
    """500 questions of 20 rounds: milliseconds from a key to the screen, a blink to open."""
    rows = [{"question": f"Question number {i} about pens?", "answer": "3"} for i in range(500)]
    outcome = held(*[(str(i), str(100 + i)) for i in range(20)], knowledge="A rule. " * 60)
    size = len(written(tmp_path / "a.html", rows, [outcome] * 500)[0])
    assert 5e6 < size < 12e6
    browser.window(1280, 900)
    browser.open((tmp_path / "a.html").as_uri())
    opened = browser.js("return performance.getEntriesByType('navigation')[0].duration")
    assert opened < 4000
    spent = browser.js("""
        const times = [], search = document.getElementById("search");
        for (const wanted of ["number 49", "nowhere at all", ""]) {
          const start = performance.now();
          search.value = wanted; search.oninput(); document.body.offsetHeight;
          times.push(performance.now() - start);
        }
        const start = performance.now();
        for (let i = 0; i < 20; i++)
          document.onkeydown(new KeyboardEvent("keydown", {key: "j"}));
        document.body.offsetHeight;
        return [Math.max(...times), (performance.now() - start) / 20, current];""")
    print(opened, spent)
    assert spent[0] < 1500 and spent[1] < 150 and spent[2] == 69, spent
