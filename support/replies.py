"""What the replies of real teacher models need: rules read out of any text, and what a server means
that does not answer.

data.py's Teacher calls all of this; its own code shows the way of a request that goes well.
"""
import json
import re
import time
from concurrent import futures
from contextlib import suppress
from email.utils import mktime_tz, parsedate_tz
from functools import partial
from threading import Thread, local
from urllib.parse import unquote, urlsplit


class RetryableError(Exception):
    """A reply was of no use, the next may be; the text says why. status: of the response, if it is
    about that; wait: the seconds until the next try, if the server said; formal: whether it may be
    about the form of the request, not about what it says."""

    def __init__(self, why, status=0, wait=None, formal=False):
        super().__init__(why)
        self.status, self.wait, self.formal = status, wait, formal


class RowError(RetryableError):
    """No other try can help this row; others may be good."""


# -------------------------------------------------------------------------------------------------
# Rules

# A thought ends where its tag is closed, or not at all. The opening one may stand in the prompt.
NAMES = "(?:think|thinking|thoughts?|reasoning)"
THOUGHT_ENDS = re.compile(rf"[<\[◁]/{NAMES}\s?[>\]▷]|<\|end_of_thought\|>|"
                          r"<\|channel\|>\s?final\b(?:[^<{]*<\|message\|>)?", re.I)
THOUGHT = re.compile(rf"(?:[<\[◁]{NAMES}\s?[>\]▷]|<\|begin_of_thought\|>|"
                     r"<\|channel\|>\s?(?:analysis|commentary)\b).*?"
                     rf"(?:{THOUGHT_ENDS.pattern}|\Z)", re.I | re.S)
STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"?'  # all that follows, if it is not closed: in one pass
OPENING = re.compile(r"""\{\s*["'}]|\[\s*["'{\[\]]""")  # prose has sets and intervals, too
TOKEN = re.compile(STRING + r"|[{}\[\]]", re.S)
EXCESS = re.compile(STRING + r"|,(?=\s*[}\]])", re.S)
ESCAPE = re.compile(r'(\\["\\/bfnrt]|\\u[\da-fA-F]{4})|\\')
# Control characters that were the LaTeX commands \beta, \frac, \rho ... before JSON was read. Tabs
# and line breaks are more often what they seem, so these are known by the rest of the command.
LATEX = re.compile(r"""[\b\f\r](?=[a-z])
    | \t(?=(?:imes|heta|anh?|ext[a-z]*|frac|o|au|riangle[a-z]*|op|herefore|ilde|binom)(?![a-zA-Z]))
    | \n(?=(?:u|eq?|eg|abla|mid|otin|leq|geq|less|gtr|parallel|exists|(?:sub|sup)set(?:eq)?|sim|cong
              |earrow|warrow|rightarrow|leftarrow|ot(?=\s*[\\=<>]))(?![a-zA-Z]))""", re.X)
NUMBERING = re.compile(r"""^(?:
      [-*•‣▪●◦·–—→➤➔⇒✓✔►▸]+\ufe0f?\s+ | [①-⑳]\s* | [a-hivx]{1,4}\)\s+ | \([a-hivx]{1,4}\)\s+(?=\w)
    | (?:(?:rule|step|knowledge)\s*\#?\d{1,2}\s*[.:)–—-]\s*
        | \*\*(?:rule|step|knowledge)\s*\#?\d{1,2}\s*(?:[.:)]\s*\*\*|\*\*\s*[.:)–—-])\s*
        | [(\[\#*]*\d{1,2}[.:)\]*、．]+\s+ | \d{1,2}[.)、．] | \d{1,2}(?:\.\d{1,2})+[.)]\s+
        | \d{1,2}\s+[–—-]\s+ | \#\d{1,2}\s+)(?=[^\W\d_]|[\\$"'(*])
    | \d{1,2}[.)]\s+(?=-?\d))+""", re.X | re.I)


def read_json(text):
    """What a JSON text holds; None if it is none. Forgives what models do: backslashes before any
    letter, commas before a closing bracket, line breaks in strings."""
    def mend(found):
        return ESCAPE.sub(lambda m: m[1] or r"\\", found[0]) if found[0] != "," else ""

    def unique(pairs):  # json would take the last of two lists
        if len(dict(pairs)) < len(pairs):
            raise ValueError
        return dict(pairs)

    with suppress(ValueError, RecursionError):
        return json.loads(EXCESS.sub(mend, text), strict=False, object_pairs_hook=unique)


def last_json(text):
    """The last top-level object or list in a text; None if it cannot be read. The time it takes
    grows with the length: no span is entered again.

    >>> last_json('First {"a": 1}, better {"a": [2,]}')
    {'a': [2]}
    """
    span, end = "", 0
    while opening := OPENING.search(text, end):
        depth, end = 0, len(text)
        for token in TOKEN.finditer(text, opening.start()):
            depth += (token[0] in "{[") - (token[0] in "}]")
            if depth == 0:
                end = token.end()
                break
        span = text[opening.start():end]
    return read_json(span)


def flaw(rules):
    """What is wrong with a list of rules; "" if nothing. Some letters are there and not seen."""
    if not isinstance(rules, list) or not 1 <= len(rules) <= 12 or not all(
            isinstance(rule, str) and any(c.isalpha() and c not in "\u115f\u1160\u3164\uffa0"
                                          for c in rule) for rule in rules):
        return "no JSON object with a list of 1 to 12 texts"
    if re.search("[\ufffd\ud800-\udfff]", "".join(rules)):
        return "broken characters in a rule"
    return "a rule of over 1,000 characters" if max(map(len, rules)) > 1000 else ""


def read_content(reply):
    """The text of a chat completion. Raises RetryableError if there is none, or not all of it."""
    try:
        choice = reply["choices"][0]
        ended, message = choice.get("finish_reason"), choice["message"]
        refusal, content = message.get("refusal"), message.get("content")
        if not isinstance(content, str):  # a text in parts, some of which may be thoughts
            content = "".join(part.get("text", "") for part in content or []
                              if part.get("type", "text") in ("text", "output_text"))
    except (LookupError, TypeError, AttributeError):
        raise RetryableError(f"not a chat completion: {reply}") from None
    if ended == "length":
        raise RowError("cut off (finish_reason length); --params can give more max_tokens")
    if refusal or ended == "content_filter":
        raise RetryableError("refused")
    if not content.strip():
        raise RetryableError("empty")
    return content


def read_rules(reply):
    """The rules in a chat completion: the list under "knowledge" in the last JSON object of its
    text, thoughts apart. Raises RetryableError if there are none.

    >>> text = r'Here: {"knowledge": ["1. The half is \\frac{1}{2} of it."]}'
    >>> read_rules({"choices": [{"message": {"content": text}}]})
    ['The half is \\\\frac{1}{2} of it.']
    """
    found = last_json(THOUGHT_ENDS.split(THOUGHT.sub("", read_content(reply)))[-1])
    rules = found.get("knowledge") if isinstance(found, dict) else None
    if isinstance(rules, list) and all(isinstance(rule, str) for rule in rules):
        rules = [LATEX.sub(lambda m: "\\" + "bfrtn"["\b\f\r\t\n".index(m[0])], rule)
                 for rule in rules]
        # A line break that is left would make two rules of one.
        rules = [NUMBERING.sub("", " ".join(rule.split())) for rule in rules]
    if why := flaw(rules):
        raise RetryableError(why)
    return rules


# Numbers that are the same in all problems, each with the beginnings of words that tell why.
FIXED = """
0.01 penny pennies cent|0.05 nickel|0.1 dime percent tenth|0.25 quarter|0.5 half|1.5 half
2 half halv twice doubl two couple pair both average side slice wheel legs weekend pint radi round
3 third tripl thrice three yard tricycle triang|4 quarter fourth four leg wheel corner rectang
4 square month gallon quart|5 nickel weekday friday|6 cube|7 week|8 ounce gallon octagon|9 yard
10 dime millim centim decim decade tenth|12 dozen year month inch|16 ounce|20 nickel|24 hour
25 quarter|28 days|29 days|30 days half|31 days|32 ounce|36 inch yard|50 half|52 week
60 minute second|90 angle|100 percent % cent|128 ounce|180 angle|360 angle circle degree|365 year
366 year|1000 kilo milli gram liter meter|2000 ton|3600 second|5280 mile"""
FIXED = [entry.split() for entry in re.split(r"[|\n]", FIXED.strip())]
# Words with a capital that are no names: those that problems and rules often begin with.
OPENERS = set("""How If The What There Each In On After They It At Then One For When Every This To
    Two During An Half Three Of While And But So Find Their From All By As Before Over Since Once
    With Some Only Another Both Twice Calculate Determine Let Given Use""".split())
CALENDAR = set("""January February March April May June July August September October November
    December Monday Tuesday Wednesday Thursday Friday Saturday Sunday""".split())


def words_of(text):
    """The words and numbers in a text; these in one form: 1,200.50 as 1200.5."""
    words = (word.replace(",", "") for word in re.findall(r"\d[\d,]*(?:\.\d+)?|\w+", text))
    return {word.rstrip("0").rstrip(".") if "." in word else word for word in words}


def copied(rules, question, rationale=""):
    """Names and numbers that rules share with the question, a sign that they tell its story, and
    numbers that they share with the rationale: its results. A guess: a number is no copy where its
    rule says why all problems have it (FIXED), and a name is what has a capital and is not a common
    first word.

    >>> copied(["Double Weng's 12 dollars, 24.", "A week has 7 days."], "Weng earns $12 in 7 days.",
    ...        "She earns 12*2 = $24.")
    ['12', '24', 'Weng']
    """
    told = words_of(question)
    numbers = {word for word in told | words_of(rationale) if word[0].isdecimal()} - {"0", "1"}
    either, found = told | words_of("\n".join(rules)), set()
    for rule in rules:
        words, lower = words_of(rule), rule.lower()
        known = {number for number, *why in FIXED
                 if number in words and any(word in lower for word in why)}
        names = {word for word in words & told - OPENERS if word[0].isupper() and len(word) > 1}
        if "days" in lower or "year" in lower:
            names -= CALENDAR
        found |= words & numbers - known | {word for word in names if word.lower() not in either}
    return sorted(found)


# -------------------------------------------------------------------------------------------------
# Requests and responses

LONGEST = 60  # seconds that are waited because a server asks for it
LARGEST = 1_000_000  # bytes of a response
# Words of refusals: of one row, where other requests may do; of an account, where none will; and of
# limits that pass, which name money, too.
ROW = re.compile(r"content.?(filter|policy|management)|moderation|flagged|context.?(length|window)|"
                 r"too (large|long)|tokens must be reduced", re.I)
SPENT = re.compile(r"insufficient[\W_](\w+[\W_])?(quota|credit|balance|fund)|credit balance|"
                   r"(exceeded|exhausted|reached) (your|the) (\w+ ){0,3}(quota|credit|budget)|"
                   r"(out of|not enough|no) credit|quota (\w+ ){0,2}(exceeded|exhausted)|billing|"
                   r"spend\w* (limit|cap)|(daily|monthly) (\w+ )?(limit|quota)|per.?day", re.I)
PASSING = re.compile(r"(per|/) ?(min|sec)|(again|retry) in [\d.]+ ?m?s\b", re.I)


def read_body(response):
    """The JSON of a response that is read as it comes; its text, if that is none."""
    content = b""
    for piece in response.iter_content(1 << 16):
        content += piece
        if len(content) > LARGEST:
            raise RetryableError(f"a response of over {LARGEST:,} bytes")
    text = str(content, "utf-8-sig", "replace")
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return text


def retry_after(headers):
    """Seconds that a server wants to be left alone: retry-after-ms, or Retry-After in seconds, as
    an HTTP date or as a Unix time. At most LONGEST; None if it does not say.

    >>> retry_after({"retry-after-ms": "1500"})
    1.5
    """
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = headers.get(name, "").strip()
        try:
            date = parsedate_tz(value)  # in UTC, if it names no zone
            if date:
                wait = mktime_tz(date) - time.time()
            else:
                wait = float(re.fullmatch(r"\d+(\.\d*)?", value)[0]) / unit
                wait -= time.time() if 1e9 < wait < 1e10 else 0
        except (ValueError, TypeError, OverflowError):
            continue
        if wait > 0:
            return min(wait, LONGEST)
    return None


def refusal(response, reply, url):
    """The exception that a response with another status than 200 is, with the flag that helps and
    in the server's own words: RetryableError, RowError, or ValueError, which ends the run."""
    status, said, hint = response.status_code, str(reply), ""
    for name in ("error", "message", "detail"):  # {"error": {"message": ...}}, or one of these
        reply = reply.get(name, reply) if isinstance(reply, dict) else reply
    words = str(reply).strip() or response.headers.get("Location") or response.reason or "no word"
    row, wait = ROW.search(said), retry_after(response.headers)
    if "max_completion_tokens" in said and not row:
        hint = """ (try --params '{"max_completion_tokens": 1000}')"""
    elif status in (404, 405) and not re.search("model|deployment", said, re.I):
        hint = " (a wrong path? --url usually ends in /v1, as http://localhost:8000/v1)"
    elif status in (400, 422) and re.search("param|temperature|max_tokens", said) and not row:
        hint = " (--params sets what requests say)"
    why = f"HTTP status {status}{hint}: {words}"
    spent = "insufficient_quota" in said or (
        SPENT.search(said) and not PASSING.search(said) and wait in (None, LONGEST))
    if status >= 500 or status in (408, 409, 425, 429) and not spent and not row:
        return RetryableError(why, status, wait, formal=status >= 500)
    if status < 400 or status in (401, 402, 403, 404, 405, 407, 429) and not row:
        return ValueError(f"{url} answered with status {status}{hint}: {words}")
    return RowError(why, status, formal=not row)  # if all are refused alike, the run will notice


def count_tokens(reply):
    """[tokens in, tokens out] as a chat completion counts them; zeros where it counts nonsense."""
    with suppress(LookupError, TypeError, ValueError, OverflowError, AttributeError):
        counts = [int(reply["usage"].get(f"{side}_tokens", 0)) for side in ("prompt", "completion")]
        return [min(max(0, count), 10**9) for count in counts]
    return [0, 0]


def within(seconds, call):
    """What call() returns or raises if it does in time, else TimeoutError: a socket's own timeout
    bounds only the silence between two bytes. A late call stays in its thread, and nobody waits for
    it, not even the end of the program."""
    future = futures.Future()

    def work():
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    try:
        return future.result(seconds)
    except futures.TimeoutError:  # in Python 3.10, another one than the built-in
        raise TimeoutError from None


class Server:
    """Where the chat of an OpenAI-compatible server is, by its --url, and how to get there: a
    session for each thread, no proxy to this machine itself, a deadline, and the name and password
    of the URL, which are never shown."""

    def __init__(self, url, key="", timeout=120):
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").rstrip(".")
            self.login = [unquote(part or "") for part in (parts.username, parts.password)]
        except ValueError as error:
            raise ValueError(f"--url is no address: {error}.") from None
        path = parts.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.url = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path).geturl()
        if "@" in self.url:
            raise ValueError("--url has an @ too many; in a password, write @ as %40 and / as %2F.")
        self.key, self.timeout, self.local = key, timeout, local()
        self.options = {"auth": self.sign, "timeout": (min(10, timeout), timeout)}
        if re.fullmatch(r"(.*\.)?localhost|127\.[\d.]+|::1|0\.0\.0\.0", host):
            self.options["proxies"] = dict.fromkeys(("http", "https", "all"))

    def sign(self, request):  # a plain header would give way to what a .netrc says of this host
        from requests.auth import HTTPBasicAuth  # here, because only the network needs it
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        elif any(self.login):
            HTTPBasicAuth(*self.login)(request)
        return request

    def post(self, chat, request):
        """What chat(session, url, request, **options) says that the server replies, whatever JSON
        it is. Raises RetryableError, or ValueError in the server's own words if no other try can
        help."""
        import requests
        # While a late call may still use a session, its thread has none.
        session = self.local.__dict__.pop("session", None) or requests.Session()
        try:
            response, reply = within(self.timeout, partial(chat, session, self.url, request,
                                                           **self.options))
        except ValueError as error:  # no address of a server, or headers that make no sense
            raise ValueError(f"no reply can be had from {self.url}: {error}") from None
        except OSError as error:  # of requests, too; its words may hold anything and are left out
            late = "Timeout" in type(error).__name__
            raise RetryableError("no reply in time (--timeout)" if late else
                                 "no connection, or a lost one (--url)") from None
        self.local.session = session
        if response.status_code != 200:
            raise refusal(response, reply, self.url)
        return reply

    def hide(self, text):
        """What a server says, without secrets and control characters. A secret under 6 letters (x,
        none) is none, but may be a word."""
        text = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", str(text)).strip()
        for secret in (self.key, self.login[1]):
            text = text.replace(secret, "[key]") if len(secret) >= 6 else text
        return text
