"""What the replies of real teacher models need: rules read out of any text, waits, words of errors.

data.py's Teacher calls all of this; its own code shows the way of a request that goes well.
"""
import json
import re
import time
from contextlib import suppress
from email.utils import mktime_tz, parsedate_tz


class RetryableError(Exception):
    """A reply was of no use, the next may be; the text says why. wait: the seconds until then, if
    the server said; rate_limited: whether all requests have to wait."""

    def __init__(self, why, wait=None, rate_limited=False):
        super().__init__(why)
        self.wait, self.rate_limited = wait, rate_limited


# -------------------------------------------------------------------------------------------------
# Rules


def usable(rules):
    """Whether this is a list of 1 to 12 texts."""
    return (isinstance(rules, list) and 1 <= len(rules) <= 12
            and all(isinstance(rule, str) and rule.strip() for rule in rules))


def read_content(reply):
    """The text of a chat completion. Raises RetryableError if there is none, or not all of it."""
    try:
        choice = reply["choices"][0]
        ended, message = choice.get("finish_reason"), choice["message"]
        refusal, content = message.get("refusal"), message.get("content")
        if not isinstance(content, str):  # a text in parts
            content = "".join(part.get("text", "") for part in content or [])
    except (LookupError, TypeError, AttributeError):
        raise RetryableError(f"not a chat completion: {reply}") from None
    if ended == "length":
        raise RetryableError("cut off (finish_reason length)")
    if refusal or ended == "content_filter":
        raise RetryableError("refused")
    if not content.strip():
        raise RetryableError("empty")
    return content


def read_rules(reply):
    """The rules in a chat completion: those of the last JSON object that holds some, under
    "knowledge" or as its only list. Raises RetryableError if there are none.

    >>> text = 'Here they are: {"knowledge": ["Add what comes in."]}'
    >>> read_rules({"choices": [{"message": {"content": text}}]})
    ['Add what comes in.']
    """
    content, rules, end = read_content(reply), None, 0
    for brace in re.finditer("{", content):
        if brace.start() < end:  # inside the object before
            continue
        with suppress(ValueError, RecursionError):  # not every brace begins one: prose has sets
            found, end = json.JSONDecoder().raw_decode(content, brace.start())
            lists = [found.get("knowledge")]
            if "knowledge" not in found:
                lists = [value for value in found.values() if isinstance(value, list)]
            if len(lists) == 1 and usable(lists[0]):
                rules = lists[0]
    if not rules:
        raise RetryableError("no JSON object with a list of 1 to 12 texts")
    return [" ".join(rule.split()) for rule in rules]  # a line break would make two rules of one


# Words with a capital that are no names: those that problems and rules often begin with.
OPENERS = set("""How If The What There Each In On After They It At Then One For When Every This To
    Two During An Half Three Of While And But So Find Their From All By As Before Over Since Once
    With Some Only Another Both Twice Calculate Determine Let Given Use""".split())


def copied(rules, question):
    """Names and numbers that the rules share with the question, a sign that they tell its story.
    A guess: some numbers belong in a rule (the 2 of an average), and a name is what has a capital
    and is not a common first word.

    >>> copied(["Double Weng's 12 dollars."], "Weng earns $12 an hour.")
    ['12', 'Weng']
    """
    ours, theirs = ({word.replace(",", "") for word in re.findall(r"\d[\d,]*\.?\d+|\w+", text)}
                    for text in ("\n".join(rules), question))
    shared, either = ours & theirs, ours | theirs
    names = {word for word in shared - OPENERS if word[0].isupper() and len(word) > 1}
    names = {word for word in names if word.lower() not in either}
    return sorted(names | {word for word in shared if word[0].isdecimal()})


# -------------------------------------------------------------------------------------------------
# Waits, errors and costs


def retry_after(headers):
    """Seconds that a server wants to be left alone: retry-after-ms, or Retry-After in seconds or
    as an HTTP date. At most an hour; None if it does not say.

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
        except (ValueError, TypeError, OverflowError):
            continue
        if wait > 0:
            return min(wait, 3600)
    return None


def read_body(response):
    """The JSON of a response; its text, if that is none."""
    text = str(response.content, "utf-8-sig", "replace")
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return text


def error_words(response, reply):
    """What a server says that does not answer: {"error": {"message": ...}}, one of these keys
    alone, any text, or what the headers tell."""
    for name in ("error", "message"):
        reply = reply.get(name, reply) if isinstance(reply, dict) else reply
    return str(reply).strip() or response.headers.get("Location") or response.reason or "no word"


def count_tokens(reply):
    """[tokens in, tokens out] as a chat completion counts them; zeros where it counts nonsense."""
    with suppress(LookupError, TypeError, ValueError, OverflowError, AttributeError):
        counts = [int(reply["usage"].get(f"{side}_tokens", 0)) for side in ("prompt", "completion")]
        return [min(max(0, count), 10**9) for count in counts]
    return [0, 0]


def hide(text, key):
    """What a server says, without the key and control characters. A key under 6 letters (x, none)
    is no secret, but may be a word."""
    text = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()
    return text.replace(key, "[key]") if len(key) >= 6 else text
